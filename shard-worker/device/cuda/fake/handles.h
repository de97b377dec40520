// Handles that callers hold: raw pointers that are looked up before they are believed, so that a stale one is an error
// and not a crash.
#pragma once

#include <memory>
#include <mutex>
#include <unordered_map>

namespace fake {

template <class T>
class Handles {
  public:
    template <class Handle>
    Handle add(std::shared_ptr<T> object) {
        std::lock_guard guard(mutex_);
        T* raw = object.get();
        live_.emplace(raw, std::move(object));
        return reinterpret_cast<Handle>(raw);
    }

    /// Null where the handle was never given out, or was taken back.
    std::shared_ptr<T> find(const void* handle) {
        std::lock_guard guard(mutex_);
        auto found = live_.find(handle);
        return found == live_.end() ? nullptr : found->second;
    }

    /// Finds it for the last time.
    std::shared_ptr<T> take(const void* handle) {
        std::lock_guard guard(mutex_);
        auto found = live_.find(handle);
        if (found == live_.end()) return nullptr;
        auto object = std::move(found->second);
        live_.erase(found);
        return object;
    }

    size_t count() {
        std::lock_guard guard(mutex_);
        return live_.size();
    }

  private:
    std::mutex mutex_;
    std::unordered_map<const void*, std::shared_ptr<T>> live_;
};

/// The one table of a type. Never destroyed: threads of streams may outlive static destructors.
template <class T>
Handles<T>& handles() {
    static auto& table = *new Handles<T>;
    return table;
}

}  // namespace fake

// Rows of logits as ranks gather them.
#pragma once

#include "harness.h"

namespace test {

using Logits = std::vector<std::vector<float>>;

/// `[parts][rows][part]` of rows of one length; what is beyond the vocabulary is NaN.
class Gathered {
  public:
    Gathered(const Logits& rows, int parts)
        : parts(parts), rows(int(rows.size())), vocab(int(rows[0].size())), part((vocab + parts - 1) / parts), memory(size_t(parts * part) * rows.size()) {
        for (size_t r = 0; r < rows.size(); r++)
            for (int id = 0; id < vocab; id++) memory[place(int(r), id)] = rows[r][size_t(id)];
    }
    size_t place(int row, int id) const { return (size_t(id / part) * size_t(rows) + size_t(row)) * size_t(part) + size_t(id % part); }
    float at(int row, int id) const { return memory[place(row, id)]; }
    float* get() { return memory.get(); }

    const int parts, rows, vocab, part;

  private:
    Buffer<float> memory;
};

/// A row of one of the kinds that selections may trip over.
inline std::vector<float> random_row(Random& random, int vocab) {
    std::vector<float> row;
    int kind = random.between(0, 7);
    float size = float(std::pow(10, random.between(-2, 1)));
    for (int id = 0; id < vocab; id++) {
        switch (kind) {
            case 0: row.push_back(random.around(size) + random.around(size) + random.around(size)); break;
            case 1: row.push_back(float(random.between(-40, 40)) / 4); break;                             // ties
            case 2: row.push_back(random.chance(0.5) ? -INFINITY : random.around(size)); break;           // masked
            case 3: row.push_back(20 + float(random.between(-5, 5)) * 0x1p-19f); break;                   // neighbours in f32
            case 4: row.push_back(random.chance(0.5) ? 0.0f : -0.0f); break;                              // zeros of both signs
            case 5: row.push_back(random.around(1) * float(std::pow(10, random.between(-30, 30)))); break;  // far apart
            case 6: row.push_back(-1.5f); break;                                                          // all equal
            case 7: row.push_back(float(random.between(-9, 9)) * 0x1p-149f); break;                       // denormal
        }
    }
    if (kind < 4) row[size_t(random.between(0, vocab - 1))] = 3;
    return row;
}

}  // namespace test

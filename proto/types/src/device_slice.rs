//! Numbers that lie on a device, as those who compute them and those who exchange them name them to each other.

/// What numbers on a device are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceDtype {
    /// 32-bit floats.
    F32,
    /// The upper half of 32-bit floats.
    Bf16,
}

impl DeviceDtype {
    /// Bytes of one number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Numbers on a device, and the stream that orders work on them. Plain data: whoever makes one answers for the memory
/// being there until the stream has got through what was enqueued with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSlice {
    /// Of the first number, in the device's address space.
    pub address: u64,
    /// How many there are.
    pub numbers: usize,
    /// What they are kept in.
    pub dtype: DeviceDtype,
    /// The stream's handle (a `CUstream`).
    pub stream: u64,
}

impl DeviceSlice {
    /// Bytes from the first number to the end.
    pub const fn bytes(&self) -> usize {
        self.numbers * self.dtype.bytes()
    }
}

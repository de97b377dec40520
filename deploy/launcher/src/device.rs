//! `--device`: what ranks compute on, by name.

use std::str::FromStr;

use tessera_shard_worker::{SimConfig, SimConfigError};

/// What ranks compute on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum DeviceArg {
    /// The processor, with AVX-512 or AVX2 where it has them.
    Cpu,
    /// NVIDIA GPUs, from this one on, a rank each.
    Cuda(usize),
    /// A clock in place of arithmetic.
    Sim(SimConfig),
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", gpu)) => gpu.parse().map(Self::Cuda).map_err(|_| format!("`{gpu}` is no number of a GPU")),
            Some(("sim", name)) => name.parse().map(Self::Sim).map_err(|error: SimConfigError| error.to_string()),
            _ => Err(format!("`{text}` is neither cpu nor cuda[:GPU] nor sim:NAME")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_or_refused_with_the_reason() {
        assert_eq!("cpu".parse(), Ok(DeviceArg::Cpu));
        assert_eq!(["cuda", "cuda:3"].map(str::parse), [Ok(DeviceArg::Cuda(0)), Ok(DeviceArg::Cuda(3))]);
        assert!(matches!("sim:h100*10".parse(), Ok(DeviceArg::Sim(config)) if config.factor == 10.0));
        for (wrong, reason) in [
            ("tpu", "neither cpu nor cuda[:GPU] nor sim:NAME"),
            ("cuda:x", "`x`"),
            ("sim:abacus", "`abacus`"),
            ("sim:h100*-1", "`-1`"),
        ] {
            assert!(wrong.parse::<DeviceArg>().unwrap_err().contains(reason), "{wrong}");
        }
    }
}

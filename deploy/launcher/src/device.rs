//! `--device`: what ranks compute on, by name.

use std::str::FromStr;

use tessera_shard_worker::{SimConfig, SimConfigError};

/// What ranks compute on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum DeviceArg {
    /// The processor, with AVX-512 or AVX2 where it has them.
    Cpu,
    /// A clock in place of arithmetic.
    Sim(SimConfig),
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            Some(("sim", name)) => name.parse().map(Self::Sim).map_err(|error: SimConfigError| error.to_string()),
            _ => Err(format!("`{text}` is neither cpu nor sim:NAME")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_or_refused_with_the_reason() {
        assert_eq!("cpu".parse(), Ok(DeviceArg::Cpu));
        assert!(matches!("sim:h100*10".parse(), Ok(DeviceArg::Sim(config)) if config.factor == 10.0));
        for (wrong, reason) in [("tpu", "neither cpu nor sim:NAME"), ("sim:abacus", "`abacus`"), ("sim:h100*-1", "`-1`")] {
            assert!(wrong.parse::<DeviceArg>().unwrap_err().contains(reason), "{wrong}");
        }
    }
}

//! What can become of a cable. Nobody is told of any of it: packets are gone, and no connection is reset.

use anyhow::Result;

use super::command::{ip, nft};

/// What the cable of a host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    /// Carries everything.
    Whole,
    /// Is pulled out of the switch.
    Pulled,
    /// Carries nothing to the host.
    Deaf,
    /// Carries nothing from the host.
    Mute,
}

impl Cable {
    /// Ends whatever ails the cable of a host.
    pub(super) fn mend(switch: &str, host: &str, filtered: bool) -> Result<()> {
        if filtered {
            // To delete a table that may not be there, it is added first.
            nft(switch, &[&format!("add table bridge {host}"), &format!("delete table bridge {host}")])?;
        }
        ip(&["-n", switch, "link", "set", "dev", host, "up"])
    }

    /// Lets a whole cable fail so.
    pub(super) fn fail(self, switch: &str, host: &str) -> Result<()> {
        let (hook, end) = match self {
            Self::Whole => return Ok(()),
            Self::Pulled => return ip(&["-n", switch, "link", "set", "dev", host, "down"]),
            Self::Deaf => ("postrouting", "oifname"),
            Self::Mute => ("prerouting", "iifname"),
        };
        let chain = format!("bridge {host} drops");
        nft(
            switch,
            &[
                &format!("add table bridge {host}"),
                &format!("add chain {chain} {{ type filter hook {hook} priority 0; }}"),
                &format!("add rule {chain} {end} \"{host}\" drop"),
            ],
        )
    }
}

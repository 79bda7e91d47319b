//! Addresses that no limit by address counts: `limits.exempt_addresses`.

use std::fmt;

use ltq_core::{Network, Networks};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Addresses and networks that no limit by address counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExemptAddresses(pub Vec<Network>);

impl ExemptAddresses {
    pub(crate) fn networks(&self) -> Networks {
        self.0.iter().copied().collect()
    }
}

impl fmt::Display for ExemptAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(", "))
    }
}

impl Serialize for ExemptAddresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

impl<'de> Deserialize<'de> for ExemptAddresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let network = |text: &String| {
            text.parse().map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
        };
        texts.iter().map(network).collect::<Result<_, _>>().map(Self)
    }
}

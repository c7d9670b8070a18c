//! To come.

use crate::config::TrialConfig;

/// One trial of a sweep.
#[derive(Debug, Clone)]
pub struct Trial {
    /// Name of the sweep.
    pub sweep: String,
    /// Everything that is set.
    pub config: TrialConfig,
    /// Swept and solved keys.
    pub keys: Vec<(String, serde_json::Value)>,
}

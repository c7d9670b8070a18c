//! TensorBoard's hyperparameter table: events files with the messages of its plugin, one file per trial.
//!
//! The HPARAMS tab of TensorBoard reads an experiment (which keys vary, which measures exist) from the log folder, and
//! a session (the values of one trial, and that it has ended) from each subfolder.

use anyhow::Result;
use protobuf::well_known_types::{ListValue, Value as ProtoValue};
use protobuf::{CodedOutputStream, Message, RepeatedField};
use serde_json::Value;
use std::collections::HashMap;
use tensorboard_proto::api::{DataType, Experiment, HParamInfo, MetricInfo, MetricName, Status};
use tensorboard_proto::event::Event;
use tensorboard_proto::plugin_hparams::{HParamsPluginData, SessionEndInfo, SessionStartInfo};
use tensorboard_proto::summary::{Summary, Summary_Value, SummaryMetadata, SummaryMetadata_PluginData};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::tensor_shape::{TensorShapeProto, TensorShapeProto_Dim};
use tensorboard_proto::types::DataType as TensorType;
use tensorboard_rs::record_writer::RecordWriter;

/// The name of every such file: TensorBoard recognizes events files by their prefix. All times in it are 0, so that its bytes do
/// not depend on when it is written.
pub const EVENTS: &str = "events.out.tfevents.0000000000.mindscale";

/// Field number of `session_start_info` in [`HParamsPluginData`].
const START: u32 = 3;

/// Name of TensorBoard's plugin.
const PLUGIN: &str = "hparams";

/// The experiment of the table: the keys that vary over the trials, and the measures.
#[derive(Debug, Clone, Default)]
pub struct Varied {
    /// The question of the experiment.
    pub description: String,
    /// Each key with all its values.
    pub keys: Vec<(String, Vec<Value>)>,
    /// Name and description of each measure.
    pub measures: Vec<(String, String)>,
}

impl Varied {
    /// The bytes of the events file of the experiment.
    ///
    /// # Errors
    /// If a message cannot be encoded.
    pub fn events(&self) -> Result<Vec<u8>> {
        let key = |(name, values): &(String, Vec<Value>)| {
            let mut info = HParamInfo::new();
            info.set_name(name.clone());
            info.set_field_type(kind(values));
            let mut domain = ListValue::new();
            domain.set_values(values.iter().map(|value| proto(value, values)).collect());
            info.set_domain_discrete(domain);
            info
        };
        let measure = |(name, label): &(String, String)| {
            let mut metric = MetricName::new();
            metric.set_tag(name.clone());
            let mut info = MetricInfo::new();
            info.set_name(metric);
            info.set_display_name(name.clone());
            info.set_description(label.clone());
            info
        };
        let mut experiment = Experiment::new();
        experiment.set_description(self.description.clone());
        experiment.set_hparam_infos(self.keys.iter().map(key).collect());
        experiment.set_metric_infos(self.measures.iter().map(measure).collect());
        let mut data = HParamsPluginData::new();
        data.set_experiment(experiment);
        file(vec![plugin("_hparams_/experiment", data.write_to_bytes()?)])
    }

    /// The bytes of the events file of one trial: the value of each key, in the order of `keys`, and the measurements; `is_done`
    /// is false if the trial failed.
    ///
    /// # Errors
    /// If a message cannot be encoded.
    pub fn trial(
        &self,
        values: &[Option<Value>],
        measured: &[(String, f64)],
        is_done: bool,
    ) -> Result<Vec<u8>> {
        let mut infos = vec![];
        for ((name, all), value) in self.keys.iter().zip(values) {
            let Some(value) = value else { continue };
            // A map has no fixed order; concatenated messages are parsed as one message with all entries.
            let mut info = SessionStartInfo::new();
            info.set_hparams(HashMap::from([(name.clone(), proto(value, all))]));
            infos.extend(info.write_to_bytes()?);
        }
        let mut start = vec![];
        let mut out = CodedOutputStream::vec(&mut start);
        out.write_bytes(START, &infos)?;
        out.flush()?;
        drop(out);
        let mut info = SessionEndInfo::new();
        info.set_status(if is_done { Status::STATUS_SUCCESS } else { Status::STATUS_FAILURE });
        let mut end = HParamsPluginData::new();
        end.set_session_end_info(info);
        let scalar = |(name, number): &(String, f64)| {
            let mut value = Summary_Value::new();
            value.set_tag(name.clone());
            value.set_simple_value(*number as f32);
            value
        };
        let mut all = vec![plugin("_hparams_/session_start_info", start)];
        all.extend(measured.iter().map(scalar));
        all.push(plugin("_hparams_/session_end_info", end.write_to_bytes()?));
        file(all)
    }
}

/// The bytes of an events file: a version record, and one record per value.
fn file(values: Vec<Summary_Value>) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    let mut out = RecordWriter::new(&mut bytes);
    let mut version = Event::new();
    version.set_file_version("brain.Event:2".into());
    out.write(&version.write_to_bytes()?)?;
    for value in values {
        let mut summary = Summary::new();
        summary.set_value(RepeatedField::from_vec(vec![value]));
        let mut event = Event::new();
        event.set_summary(summary);
        out.write(&event.write_to_bytes()?)?;
    }
    Ok(bytes)
}

/// A message to the plugin: it is in the metadata, and the tensor is empty.
fn plugin(tag: &str, content: Vec<u8>) -> Summary_Value {
    let mut data = SummaryMetadata_PluginData::new();
    data.set_plugin_name(PLUGIN.into());
    data.set_content(content);
    let mut metadata = SummaryMetadata::new();
    metadata.set_plugin_data(data);
    let mut shape = TensorShapeProto::new();
    shape.set_dim(RepeatedField::from_vec(vec![TensorShapeProto_Dim::new()]));
    let mut tensor = TensorProto::new();
    tensor.set_dtype(TensorType::DT_FLOAT);
    tensor.set_tensor_shape(shape);
    let mut value = Summary_Value::new();
    value.set_tag(tag.into());
    value.set_metadata(metadata);
    value.set_tensor(tensor);
    value
}

/// The common type of all values of a key.
fn kind(values: &[Value]) -> DataType {
    if values.iter().all(Value::is_number) {
        DataType::DATA_TYPE_FLOAT64
    } else if values.iter().all(Value::is_boolean) {
        DataType::DATA_TYPE_BOOL
    } else {
        DataType::DATA_TYPE_STRING
    }
}

/// A value of a key whose values are `all`; if these have different types, it is converted to text.
fn proto(value: &Value, all: &[Value]) -> ProtoValue {
    let mut found = ProtoValue::new();
    match (kind(all), value) {
        (DataType::DATA_TYPE_FLOAT64, Value::Number(number)) => {
            found.set_number_value(number.as_f64().unwrap_or(f64::NAN));
        }
        (DataType::DATA_TYPE_BOOL, Value::Bool(truth)) => found.set_bool_value(*truth),
        (_, Value::String(text)) => found.set_string_value(text.clone()),
        (_, other) => found.set_string_value(other.to_string()),
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::events::next_record;
    use super::*;
    use serde_json::json;

    /// The values in a file, in order.
    fn values_of(bytes: &[u8]) -> Vec<Summary_Value> {
        let (mut found, mut rest) = (vec![], bytes);
        while let Some((data, after)) = next_record(rest) {
            rest = after;
            let mut event = Event::parse_from_bytes(data).unwrap();
            assert_eq!(event.get_wall_time(), 0.0);
            found.extend(event.mut_summary().take_value().into_vec());
        }
        assert!(rest.is_empty());
        found
    }

    fn message(value: &Summary_Value) -> HParamsPluginData {
        let plugin = value.get_metadata().get_plugin_data();
        assert_eq!((plugin.get_plugin_name(), value.has_tensor()), ("hparams", true));
        HParamsPluginData::parse_from_bytes(plugin.get_content()).unwrap()
    }

    fn varied() -> Varied {
        let key = |name: &str, values: Vec<Value>| (name.to_string(), values);
        Varied {
            description: "Deep or wide?".into(),
            keys: vec![
                key("model.n_layers", vec![json!(2), json!(8)]),
                key("sft.enabled", vec![json!(true)]),
                key("exam.at", vec![json!([0.5, 1.0]), json!("x")]),
            ],
            measures: vec![("val_bpb".into(), "bits per byte".into())],
        }
    }

    #[test]
    fn the_experiment_has_keys_with_their_values_and_measures() {
        let found = values_of(&varied().events().unwrap());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].get_tag(), "_hparams_/experiment");
        let mut data = message(&found[0]);
        let experiment = data.take_experiment();
        assert_eq!(experiment.get_description(), "Deep or wide?");
        let infos = experiment.get_hparam_infos();
        let found: Vec<_> = infos.iter().map(|info| (info.get_name(), info.get_field_type())).collect();
        let kinds = [DataType::DATA_TYPE_FLOAT64, DataType::DATA_TYPE_BOOL, DataType::DATA_TYPE_STRING];
        assert_eq!(
            found,
            ["model.n_layers", "sft.enabled", "exam.at"].into_iter().zip(kinds).collect::<Vec<_>>()
        );
        let domain = |at: usize| infos[at].get_domain_discrete().get_values();
        assert_eq!(domain(0).iter().map(ProtoValue::get_number_value).collect::<Vec<_>>(), [2.0, 8.0]);
        assert_eq!(domain(2)[0].get_string_value(), "[0.5,1.0]");
        assert_eq!(experiment.get_metric_infos()[0].get_name().get_tag(), "val_bpb");
    }

    #[test]
    fn a_trial_is_a_session_with_its_values_and_scalars() {
        let (keys, measured) = ([Some(json!(8)), Some(json!(true)), None], [("val_bpb".to_string(), 1.25)]);
        let bytes = varied().trial(&keys, &measured, true).unwrap();
        assert_eq!(bytes, varied().trial(&keys, &measured, true).unwrap());
        let found = values_of(&bytes);
        let tags: Vec<&str> = found.iter().map(Summary_Value::get_tag).collect();
        assert_eq!(tags, ["_hparams_/session_start_info", "val_bpb", "_hparams_/session_end_info"]);
        let mut data = message(&found[0]);
        let start = data.take_session_start_info();
        let values = start.get_hparams();
        assert_eq!(values["model.n_layers"].get_number_value(), 8.0);
        assert!(values["sft.enabled"].get_bool_value() && values.len() == 2);
        assert_eq!(found[1].get_simple_value(), 1.25);
        assert_eq!(message(&found[2]).get_session_end_info().get_status(), Status::STATUS_SUCCESS);
        let failed = varied().trial(&keys, &[], false).unwrap();
        let failed = values_of(&failed);
        assert_eq!(message(&failed[1]).get_session_end_info().get_status(), Status::STATUS_FAILURE);
    }
}

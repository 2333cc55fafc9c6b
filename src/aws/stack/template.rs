//! The CloudFormation template inside the program, and the body that is sent of it.
//!
//! People read `templates/stack.yaml`, with its comments and reasons. CloudFormation gets the same as compact JSON, for an
//! inline body may have 51,200 bytes; the definition of the training workflow, a file of its own, is put into it.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};

/// The template, as people read it.
pub const SOURCE: &str = include_str!("../../../templates/stack.yaml");

/// What CloudFormation takes inline; a larger body would have to lie in a bucket.
/// Source: [CloudFormation quotas](https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html).
pub const MAX_BODY_BYTES: usize = 51_200;

/// What is in a resource's `Metadata` for scanners and readers only.
const FOR_READERS: &str = "Metadata";

/// A template that was read.
#[derive(Debug, Clone)]
pub struct Template {
    document: Value,
}

/// What is declared of one parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    pub name: String,
    pub description: String,
    pub default: Option<String>,
    pub allowed: Vec<String>,
}

/// What the stack is to be asked for with one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Such as `AWS::S3::Bucket`.
    pub kind: String,
    /// Whether its data outlive the stack: replacing it needs a word of the person's.
    pub retained: bool,
    /// Whether it stays when the stack is deleted.
    pub stays: bool,
    pub condition: Option<String>,
}

impl Template {
    /// The template inside this program.
    ///
    /// # Errors
    /// Where it can't be read, which a test rules out.
    pub fn embedded() -> anyhow::Result<Template> {
        Template::with_workflow(SOURCE)
    }

    /// Somebody's template, with the training workflow of this program.
    ///
    /// # Errors
    /// Where it is not such YAML.
    pub fn with_workflow(source: &str) -> anyhow::Result<Template> {
        let workflow: Value = serde_json::from_str(super::WORKFLOW).context("reading the training workflow")?;
        Template::read(source, &workflow)
    }

    /// A template in YAML with the short forms of CloudFormation's functions; `workflow` becomes the definition of its state
    /// machines that have an empty one.
    ///
    /// # Errors
    /// Where it is not such YAML.
    pub fn read(source: &str, workflow: &Value) -> anyhow::Result<Template> {
        let documents = Yaml::load_from_str(source).context("reading the template")?;
        let [document] = documents.as_slice() else { bail!("the template must be one YAML document") };
        let mut document = plain(document).context("reading the template")?;
        for resource in document["Resources"].as_object_mut().context("the template has no resources")?.values_mut() {
            if let Some(fields) = resource.as_object_mut() {
                fields.remove(FOR_READERS);
            }
            let definition = resource.pointer_mut("/Properties/Definition");
            if let Some(definition) = definition.filter(|definition| definition.as_object().is_some_and(Map::is_empty))
            {
                *definition = workflow.clone();
            }
        }
        Ok(Template { document })
    }

    /// What is sent: compact JSON.
    pub fn body(&self) -> String {
        self.document.to_string()
    }

    /// Its parameters, by name.
    pub fn parameters(&self) -> Vec<Parameter> {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let declared = self.document["Parameters"].as_object().into_iter().flatten();
        declared
            .map(|(name, declared)| Parameter {
                name: name.clone(),
                description: declared["Description"].as_str().unwrap_or_default().to_owned(),
                default: declared.get("Default").map(text),
                allowed: declared["AllowedValues"].as_array().into_iter().flatten().map(text).collect(),
            })
            .collect()
    }

    /// Resources that are there only under a condition about one of these parameters, by logical id.
    pub fn of_parameters(&self, names: &[&str]) -> Vec<String> {
        let conditions = self.document["Conditions"].as_object();
        let text_of = |name: &str| conditions.and_then(|all| all.get(name)).map(Value::to_string).unwrap_or_default();
        let depends = |condition: &str| {
            // Conditions name each other, and CloudFormation lets no circle be.
            let mut to_look = vec![condition.to_owned()];
            let mut looked = 0;
            while let Some(text) = to_look.get(looked).map(|name| text_of(name)) {
                if names.iter().any(|name| text.contains(&format!("{{\"Ref\":\"{name}\"}}"))) {
                    return true;
                }
                let others = conditions.into_iter().flat_map(|all| all.keys());
                let named = others.filter(|other| text.contains(&format!("{{\"Condition\":\"{other}\"}}")));
                let new: Vec<String> = named.filter(|other| !to_look.contains(other)).cloned().collect();
                to_look.extend(new);
                looked += 1;
            }
            false
        };
        let resources = self.resources();
        let under = resources.iter().filter(|(_, resource)| resource.condition.as_deref().is_some_and(depends));
        under.map(|(id, _)| id.clone()).collect()
    }

    /// Its resources, by logical id.
    pub fn resources(&self) -> BTreeMap<String, Resource> {
        let declared = self.document["Resources"].as_object().into_iter().flatten();
        declared
            .map(|(id, declared)| {
                let resource = Resource {
                    kind: declared["Type"].as_str().unwrap_or_default().to_owned(),
                    retained: declared["UpdateReplacePolicy"].as_str().is_some_and(|policy| policy != "Delete"),
                    stays: declared["DeletionPolicy"].as_str().is_some_and(|policy| policy.starts_with("Retain")),
                    condition: declared["Condition"].as_str().map(str::to_owned),
                };
                (id.clone(), resource)
            })
            .collect()
    }
}

/// YAML as JSON, with the long form of each function.
fn plain(node: &Yaml<'_>) -> anyhow::Result<Value> {
    Ok(match node {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(yes)) => json!(yes),
        Yaml::Value(Scalar::Integer(number)) => json!(number),
        Yaml::Value(Scalar::FloatingPoint(number)) => json!(number.into_inner()),
        Yaml::Value(Scalar::String(text)) => json!(text),
        Yaml::Sequence(items) => Value::Array(items.iter().map(plain).collect::<anyhow::Result<_>>()?),
        Yaml::Mapping(entries) => {
            let mut fields = Map::new();
            for (key, value) in entries {
                let key = match plain(key)? {
                    Value::String(key) => key,
                    other => other.to_string(),
                };
                if fields.insert(key.clone(), plain(value)?).is_some() {
                    bail!("`{key}` is there twice");
                }
            }
            Value::Object(fields)
        }
        Yaml::Tagged(tag, argument) => function(&tag.suffix, plain(argument)?),
        other => bail!("what is this: {other:?}"),
    })
}

/// `!Name argument` in its long form.
fn function(name: &str, argument: Value) -> Value {
    match (name, &argument) {
        ("Ref" | "Condition", _) => json!({ name: argument }),
        ("GetAtt", Value::String(path)) => {
            let (resource, attribute) = path.split_once('.').unwrap_or((path, ""));
            json!({ "Fn::GetAtt": [resource, attribute] })
        }
        _ => json!({ format!("Fn::{name}"): argument }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "
AWSTemplateFormatVersion: '2010-09-09'
Parameters:
  # not sent
  Days: { Type: Number, Default: 180, Description: 'how long' }
Conditions:
  Long: !Not [!Equals [!Ref Days, 1]]
Resources:
  Data:
    Type: AWS::S3::Bucket
    UpdateReplacePolicy: Retain
    Metadata: { checkov: { skip: [] } }
  Policy:
    Type: AWS::S3::BucketPolicy
    Condition: Long
    Properties:
      Bucket: !Ref Data
      Text: !Sub '${Data.Arn}/*'
      Arn: !GetAtt Data.Arn
  Machine:
    Type: AWS::StepFunctions::StateMachine
    Properties: { Definition: {} }
";

    #[test]
    fn short_forms_become_long_and_what_is_for_readers_is_not_sent() {
        let template = Template::read(SMALL, &json!({ "StartAt": "A" })).unwrap();
        let sent: Value = serde_json::from_str(&template.body()).unwrap();
        assert_eq!(
            sent["Resources"]["Policy"]["Properties"],
            json!({
                "Bucket": { "Ref": "Data" },
                "Text": { "Fn::Sub": "${Data.Arn}/*" },
                "Arn": { "Fn::GetAtt": ["Data", "Arn"] },
            })
        );
        assert_eq!(sent["Conditions"]["Long"], json!({ "Fn::Not": [{ "Fn::Equals": [{ "Ref": "Days" }, 1] }] }));
        assert_eq!(sent["Resources"]["Data"], json!({ "Type": "AWS::S3::Bucket", "UpdateReplacePolicy": "Retain" }));
        assert_eq!(sent["Resources"]["Machine"]["Properties"]["Definition"], json!({ "StartAt": "A" }));
        assert!(template.resources()["Data"].retained && !template.resources()["Policy"].retained);
        assert_eq!(template.resources()["Policy"].condition.as_deref(), Some("Long"));
        assert_eq!(template.of_parameters(&["Days"]), ["Policy"]);
        assert!(template.of_parameters(&["Other"]).is_empty());
        assert_eq!(template.parameters()[0].default.as_deref(), Some("180"));
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused() {
        let twice = "Resources:\n  A: { Type: X }\n  A: { Type: Y }\n";
        assert!(Template::read(twice, &Value::Null).is_err());
    }
}

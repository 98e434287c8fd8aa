//! `request_landing`: the person is asked through the client where that can ask, else by a request that `assay approve` lists.

use std::time::Duration;

use rmcp::RoleServer;
use rmcp::model::{CallToolResult, ContentBlock, ElicitRequestParams, ElicitationAction, ElicitationSchema};
use rmcp::service::{ElicitationMode, RequestContext};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Server;
use crate::agent::desk::{self, ToolError, cap};
use crate::agent::landing;
use crate::agent::session::{Call, Event};
use crate::error::{Error, INTERNAL};
use crate::ops::Node;

/// How long a person may think before the request is filed instead.
const THINKING: Duration = Duration::from_secs(600);

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    node: String,
    #[serde(default)]
    what: String,
}

pub(super) fn arguments<T: DeserializeOwned>(arguments: &Value, expected: &str) -> Result<T, ToolError> {
    desk::arguments(arguments.clone(), expected)
}

/// What the person said.
enum Answer {
    Yes,
    No,
    /// The client cannot ask, or nobody answered.
    Nothing,
}

impl Answer {
    fn word(&self) -> &'static str {
        match self {
            Answer::Yes => "yes",
            Answer::No => "no",
            Answer::Nothing => "nothing: the client cannot ask, or nobody answered",
        }
    }
}

impl Server {
    pub(super) async fn request_landing(
        &self,
        given: &Value,
        call: Call,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ToolError> {
        let ask: Ask = arguments(given, "{\"node\": NODE, \"what\": TEXT}, the second where it is wanted")?;
        let named = self.desk.about(Some(&ask.node))?;
        let (desk, node) = (self.desk.clone(), named.clone());
        let ready = move || landing::ready(desk.bench(), desk.model(), &node);
        blocking(ready).await?;
        let (node, what) = (named.clone(), cap(ask.what, 200));
        self.session.write(&Event::Asked { call: call.number, node: node.clone() })?;
        let answer = answer(&named, &what, context).await;
        self.session.write(&Event::Said { call: call.number, answer: answer.word().into() })?;
        match answer {
            Answer::No => Ok(said(
                format!("The person said no: {node} was not landed."),
                json!({ "landed": false, "answer": "no" }),
            )),
            Answer::Yes => {
                let (desk, key) = (self.desk.clone(), self.key.clone());
                let landed =
                    blocking(move || landing::grant(desk.bench(), desk.model(), &node, &what, key.as_deref())).await?;
                let commits: Vec<String> = landed.into_iter().map(|l| l.commit).collect();
                Ok(said(format!("landed in {}", commits.join(", ")), json!({ "landed": true, "commits": commits })))
            }
            Answer::Nothing => {
                let desk = self.desk.clone();
                let from =
                    context.peer.peer_info().map_or("an MCP client".into(), |info| info.client_info.name.clone());
                let request = blocking(move || landing::ask(&desk.bench().root, &node, &what, &from)).await?;
                let text = format!(
                    "Asked: request {} waits. The person lands it with `assay approve {}`, in a terminal.",
                    request.number, request.number
                );
                Ok(said(text, json!({ "landed": false, "request": request.number })))
            }
        }
    }
}

fn said(text: String, data: Value) -> CallToolResult {
    let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
    result.structured_content = Some(data);
    result
}

/// Asks through the client; typing the node's name is the yes.
async fn answer(node: &Node, what: &str, context: &RequestContext<RoleServer>) -> Answer {
    if !context.peer.supported_elicitation_modes().contains(&ElicitationMode::Form) {
        return Answer::Nothing;
    }
    let Ok(schema) = ElicitationSchema::builder().required_string("node").build() else { return Answer::Nothing };
    let message = format!(
        "An agent asks to land {node}{}. Its evidence was checked. Type the node's name to commit it.",
        if what.is_empty() { String::new() } else { format!(" ({})", crate::agent::desk::printable(what)) }
    );
    let question = ElicitRequestParams::FormElicitationParams { meta: None, message, requested_schema: schema };
    match context.peer.create_elicitation_with_timeout(question, Some(THINKING)).await {
        Ok(result) if result.action == ElicitationAction::Accept => {
            let typed = result.content.as_ref().and_then(|c| c.get("node")?.as_str()).unwrap_or_default();
            if typed.trim() == node.to_string() { Answer::Yes } else { Answer::No }
        }
        Ok(_) => Answer::No,
        Err(_) => Answer::Nothing,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> crate::Result<T> + Send + 'static) -> Result<T, ToolError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(ToolError),
        Err(_) => Err(ToolError(Error::new(&INTERNAL, "assay panicked; its error output says where"))),
    }
}

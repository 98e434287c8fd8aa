//! What can go wrong in a supervised run, beside what its tools say.

crate::codes! {
    ENDPOINT_NONE: "endpoint-none", Usage, "A run needs a server that speaks OpenAI's chat completions, and a model on it. They are named \
        on the command line, in the environment or in agent.toml of the user's config directory; a workbench cannot name them.";
    ENDPOINT_CONFIG: "endpoint-config", Usage, "agent.toml in the user's config directory, or what the command line says over it, does not name a \
        server in a way that can be used. docs/agents.md lists the fields.";
    ENDPOINT_KEY: "endpoint-key", Usage, "The server's key comes from an environment variable, whose name is configured. It is never written to a \
        file, a transcript or a message, and so has to be long enough to be recognised.";
    ENDPOINT_FAILED: "endpoint-failed", CouldNotRun, "The language model's server could not be reached, refused the request, or gave nothing that is an \
        answer, as often as it was tried. Nothing is lost: the run can be resumed.";
    ENDPOINT_CONTEXT: "endpoint-context", CouldNotRun, "The prompt, what a call gives and an answer do not fit together into what the model can hold, by \
        context_tokens of agent.toml or by the server's own word: the model would never see what its calls gave, or not even the \
        prompt. The run can be resumed when either is larger.";
    PRICE_NONE: "agent-no-price", Usage, "A budget of money needs the model's price: a [[price]] table in agent.toml of the user's config directory. \
        A budget that cannot be measured is not taken.";
    RUN_NONE: "agent-run-none", Usage, "There is no such run of `assay agent` in this workbench. Runs lie below .git/assay/runs, or in .assay/runs where \
        there is no git.";
    RUN_BUSY: "agent-run-busy", CouldNotRun, "One run at a time works in a workbench, and the process of one is alive.";
    RUN_OVER: "agent-run-over", No, "The run is over, or does not wait for what was said.";
    RUN_UNFINISHED: "agent-unfinished", No, "The run ended before every node that it was to port had passed.";
    TRANSCRIPT: "transcript-damaged", Integrity, "The transcript of a run, or of an outside agent, is a chain: each line holds the digest of the one before, and the file `head` \
        beside it the digest of the last. Here a line was changed, removed or added. It is not read further and not repaired.";
    RUN_LINK: "agent-run-link", Integrity, "What stands in a run's folder is the run's own: plain folders and plain files. A link or something else has the \
        name of one, and nothing is read or written through it.";
    PROMPT: "agent-prompt", CouldNotRun, "A template of prompts/ cannot be rendered.";
    SESSION_NONE: "mcp-log-none", Usage, "There is no such transcript of an outside agent in this workbench. They lie below .git/assay/mcp, or in \
        .assay/mcp where there is no git.";
    RUN_PAUSED: "agent-stopped", Interrupted, "The run was stopped. `assay agent resume` goes on with it.";
}

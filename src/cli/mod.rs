//! The command line: server and client in one binary.
//!
//! Owns: the grammar of commands, exit codes, and what goes to which stream. Must not know: anything below HTTP, except
//! the settings of the servers it starts, and stores on which no server runs (`backup`, `restore`, `verify`); every client command is a documented REST call, which `--explain` shows.
//! Keeps invariant 1 on its side: keys come from files or the environment, never from flags, and the id of a person
//! goes into bodies, never into URLs.

mod api_key;
mod append;
mod apply;
mod backup;
pub mod bench;
mod client;
mod failure;
mod forget;
mod input;
mod keys;
mod lines;
mod output;
mod problem;
mod projection;
mod read;
mod restore;
mod schema;
mod serve;
mod sse;
mod tail;
mod test;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Flags;

use client::Client;
use failure::Failure;
use output::{Format, Output};

/// An event store that can forget a person.
#[derive(Parser)]
#[command(name = "oubliette", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 conflict, 5 denied, 6 unavailable, 7 \
                          verification failed.\nThe API key is read from OUBLIETTE_API_KEY, or from the file named by \
                          --api-key-file or OUBLIETTE_API_KEY_FILE.";

#[derive(Args)]
struct Global {
    /// Server to talk to
    #[arg(
        long,
        global = true,
        env = "OUBLIETTE_SERVER",
        default_value = "http://127.0.0.1:7017",
        value_name = "URL",
        help_heading = "Client options"
    )]
    server: String,
    /// File that holds the API key
    #[arg(long, global = true, env = "OUBLIETTE_API_KEY_FILE", value_name = "FILE", help_heading = "Client options")]
    api_key_file: Option<PathBuf>,
    /// Print the equivalent curl command and send nothing
    #[arg(long, global = true, help_heading = "Client options")]
    explain: bool,
    /// Output format [default: table on a terminal, ndjson otherwise]
    #[arg(short, long, global = true, value_name = "FORMAT", help_heading = "Output options")]
    output: Option<Format>,
    /// Only data and errors, no messages
    #[arg(short, long, global = true, help_heading = "Output options")]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server
    Serve(Flags),
    /// Show the effective settings of the server, their sources, and which of them are unsafe
    Check(Flags),
    /// Append events to a stream
    Append(append::Arguments),
    /// Read events of one stream or of all
    Read(read::Arguments),
    /// Follow events as they are appended
    Tail(tail::Arguments),
    /// Register, check and list schemas
    #[command(subcommand)]
    Schema(schema::Command),
    /// Make, change, query and rebuild projections
    #[command(subcommand)]
    Projection(projection::Command),
    /// Make schemas and projections as files say; prints a plan first
    Apply(apply::Arguments),
    /// Try schemas and projections on given events, against a server of its own that is thrown away
    Test(test::Arguments),
    /// Forget a data subject: preview, confirm, destroy the keys
    Forget(forget::Arguments),
    /// Look at the keys of data subjects
    #[command(subcommand)]
    Keys(keys::Command),
    /// Issue, list and revoke API keys
    #[command(subcommand)]
    ApiKey(api_key::Command),
    /// Copy the event log, the keystore or the erasure record
    #[command(subcommand)]
    Backup(backup::Command),
    /// Put a backup back while the server does not run
    #[command(subcommand)]
    Restore(restore::Command),
    /// Check a store whose server does not run, or a certificate or proof with nothing but files
    Verify(verify::Arguments),
    /// Get the certificate of a completed erasure
    Certificate(forget::Certificate),
    /// Measure a server over HTTP
    Bench(bench::BenchArgs),
    /// Print the version
    Version,
}

/// What every client command works with.
struct Context {
    client: Client,
    out: Output,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = Output::new(cli.global.output, cli.global.quiet);
    let result = run(cli, &mut out);
    let exit = match result {
        Ok(()) => failure::Exit::Ok,
        Err(Failure::Explained(text)) => match out.line(&text) {
            Ok(()) => failure::Exit::Ok,
            Err(_) => failure::Exit::Failed,
        },
        // Whoever read our output has had enough (`| head`): that is how pipes end, not a failure.
        Err(Failure::Io(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => failure::Exit::Ok,
        Err(failure) => {
            out.failure(&failure);
            failure.exit()
        }
    };
    ExitCode::from(exit as u8)
}

fn run(cli: Cli, out: &mut Output) -> Result<(), Failure> {
    match cli.command {
        Command::Serve(flags) => serve::run(&flags),
        Command::Check(flags) => serve::check(&flags, out),
        Command::Version => version(out),
        Command::Test(arguments) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(test::run(arguments, out))
        }
        Command::Verify(arguments) => offline()?.block_on(verify::run(arguments, out)),
        Command::Restore(command) => offline()?.block_on(restore::run(command, out)),
        Command::Backup(command) if command.offline().is_some() => {
            offline()?.block_on(async { backup::run_offline(&command, out).await })
        }
        Command::Bench(arguments) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let json = out.format() != Format::Table;
            runtime
                .block_on(bench::run(arguments, &cli.global.server, json))
                .map_err(|error| Failure::failed(format!("{error:#}")))
        }
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let key = client::ApiKey::find(cli.global.api_key_file.as_deref(), std::env::var_os("OUBLIETTE_API_KEY"))?;
            let client = Client::new(&cli.global.server, key, cli.global.explain)?;
            let mut context = Context { client, out: Output::new(cli.global.output, cli.global.quiet) };
            runtime.block_on(async {
                match command {
                    Command::Append(arguments) => append::run(arguments, &mut context).await,
                    Command::Read(arguments) => read::run(arguments, &mut context).await,
                    Command::Tail(arguments) => tail::run(arguments, &mut context).await,
                    Command::Schema(command) => schema::run(command, &mut context).await,
                    Command::Projection(command) => projection::run(command, &mut context).await,
                    Command::Apply(arguments) => apply::run(&arguments, &mut context).await,
                    Command::Forget(arguments) => forget::run(arguments, &mut context).await,
                    Command::Certificate(arguments) => forget::certificate(&arguments, &mut context).await,
                    Command::Keys(command) => keys::run(command, &mut context).await,
                    Command::ApiKey(command) => api_key::run(command, &mut context).await,
                    Command::Backup(command) => backup::run(command, &mut context).await,
                    Command::Serve(_)
                    | Command::Check(_)
                    | Command::Bench(_)
                    | Command::Test(_)
                    | Command::Restore(_)
                    | Command::Verify(_)
                    | Command::Version => Ok(()),
                }
            })
        }
    }
}

/// For commands that open a store themselves.
fn offline() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

fn version(out: &mut Output) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match out.format() {
        Format::Table => out.line(&format!("oubliette {version}"))?,
        Format::Json | Format::Ndjson | Format::Csv => out.record(&serde_json::json!({ "version": version }))?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn no_flag_takes_a_key_or_forces() {
        use clap::CommandFactory;
        fn flags(command: &clap::Command, into: &mut Vec<String>) {
            into.extend(command.get_arguments().filter_map(|a| a.get_long()).map(str::to_owned));
            command.get_subcommands().for_each(|sub| flags(sub, into));
        }
        let mut all = Vec::new();
        flags(&Cli::command(), &mut all);
        for banned in ["force", "api-key", "key", "secret", "token", "yes"] {
            assert!(!all.iter().any(|flag| flag == banned), "--{banned}");
        }
    }
}

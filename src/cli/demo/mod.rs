//! `trunkline demo`: everything once, offline, in front of your eyes.
//!
//! A simulated WhatsApp and the daemon are started as processes of their own. A number is linked by the
//! QR that is printed, messages go both ways, the daemon is killed with SIGKILL in the middle and
//! started again, and in the end every message id is looked up on the other side.

mod daemon;
mod process;
mod simulator;
mod story;
mod tally;
mod traffic;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::daemon::Recipe;
use self::process::Process;
use self::simulator::{Simulator, digits};
use self::story::Story;
use self::tally::Tally;
use self::traffic::{Cast, Progress, eventually};
use super::exit::{Exit, Failure};
use super::pair::Screen;
use super::target::request_id;
use super::{Context, words};
use crate::pb;
use crate::pb::pair_session_response::Step;

/// The number that is linked, and the one it talks to.
const NUMBER: &str = "+2348030000001";
const CUSTOMER: &str = "+2348030000002";
/// The session's id.
const SESSION: &str = "demo";
/// How long the last messages may take to arrive.
const SETTLE_PATIENCE: Duration = Duration::from_mins(2);
/// How long the link may take.
const ONLINE_PATIENCE: Duration = Duration::from_mins(1);
/// How often the plug's moment is looked for.
const POLL: Duration = Duration::from_millis(5);

/// Link a simulated number, pass messages, survive SIGKILL
#[derive(Debug, Args)]
pub(crate) struct DemoCommand {
    /// Exit with the outcome instead of staying up
    #[arg(long)]
    once: bool,
    /// Messages each way
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(2..=10_000))]
    messages: u16,
    /// Times the daemon is killed meanwhile
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=100))]
    kills: u16,
    /// The simulator's seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to keep the demo's state
    #[arg(long, default_value = "sessions", value_name = "DIR")]
    under: PathBuf,
}

/// The demo while it runs.
struct Stage {
    simulator: Simulator,
    recipe: Recipe,
    daemon: Process,
}

impl DemoCommand {
    /// Runs the demo.
    ///
    /// # Errors
    /// 1 when a message was lost or doubled, or something else went wrong on the way.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let interrupted = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let folder = self.folder()?;
        let mut story = Story::begin(context.output);
        // Children that are dropped with the story are killed; their pipes close in any case.
        let outcome = tokio::select! {
            outcome = self.play(&folder, &mut story) => outcome,
            () = interrupted => {
                story.say("interrupted; everything is stopped")?;
                if self.once { Err(Failure::silent(Exit::Interrupted)) } else { Ok(()) }
            }
        };
        if outcome.is_ok() {
            // A daemon that was cut off may still be letting go of its files.
            let _ = std::fs::remove_dir_all(&folder);
        } else {
            let kept = folder.display();
            super::output::complain(&format!("logs and state are kept in {kept}"));
        }
        outcome
    }

    /// A fresh folder for this run.
    fn folder(&self) -> Result<PathBuf, Failure> {
        let id = request_id();
        let folder = self.under.join(format!("demo-{}", &id[..8]));
        std::fs::create_dir_all(&folder)
            .map_err(|error| Failure::new(Exit::Io, format!("{}: {error}", folder.display())))?;
        Ok(folder)
    }

    async fn play(&self, folder: &Path, story: &mut Story) -> Result<(), Failure> {
        let mut stage = self.set_up(folder, story).await?;
        let cast = link(&stage, story).await?;
        let tally = self.talk(&mut stage, &cast, story).await?;
        for complaint in tally.complaints() {
            story.say(&complaint)?;
        }
        if !tally.is_clean() {
            let log = stage.recipe.log().display().to_string();
            story.say(&format!("the daemon's log is {log}"))?;
            story.output().line(&tally.verdict())?;
            return Err(Failure::silent(Exit::Refused));
        }
        if self.once {
            stage.daemon.stop().await?;
            stage.simulator.stop().await?;
            story.done("stopped")?;
            return story.output().line(&tally.verdict());
        }
        story.output().line(&tally.verdict())?;
        stay(&mut stage, story).await
    }

    async fn set_up(&self, folder: &Path, story: &mut Story) -> Result<Stage, Failure> {
        let ours = std::env::current_exe()?;
        let theirs = ours.with_file_name("trunkline-simulator");
        let log = folder.join("simulator.log");
        let simulator = Simulator::start(&theirs, self.seed, &log).await?;
        simulator.control.create(NUMBER, "Shop").await?;
        simulator.control.create(CUSTOMER, "Ada").await?;
        story.done(&format!("a simulated WhatsApp listens at {}", simulator.ws))?;
        let recipe = Recipe::write(&ours, folder, &simulator.ws)?;
        let daemon = recipe.start().await?;
        story.done(&format!(
            "the daemon answers at {}",
            recipe.socket().display()
        ))?;
        Ok(Stage {
            simulator,
            recipe,
            daemon,
        })
    }

    /// Messages both ways, with the plug pulled in between.
    async fn talk(
        &self,
        stage: &mut Stage,
        cast: &Cast,
        story: &mut Story,
    ) -> Result<Tally, Failure> {
        let each = usize::from(self.messages);
        let progress = Arc::new(Progress::default());
        let core = tokio::spawn(traffic::from_core(
            stage.recipe.clone(),
            cast.clone(),
            each,
            progress.clone(),
        ));
        let customer = tokio::spawn(traffic::from_customer(
            stage.simulator.control.clone(),
            cast.clone(),
            each,
            progress.clone(),
        ));
        for kill in 1..=usize::from(self.kills) {
            let moment = 2 * each * kill / (usize::from(self.kills) + 1);
            while progress.sent() < moment && !(core.is_finished() || customer.is_finished()) {
                stage.daemon.check()?;
                tokio::time::sleep(POLL).await;
            }
            stage.daemon.kill().await?;
            story.done(&format!(
                "kill -9 after {} of {} messages, while more are on their way",
                progress.sent(),
                2 * each
            ))?;
            stage.daemon = stage.recipe.start().await?;
            story.done("the daemon is back")?;
        }
        let mut tally = Tally::default();
        tally.outbound.sent = joined(core.await)?;
        tally.inbound.sent = joined(customer.await)?;
        story.done(&format!("{each} messages sent each way"))?;

        let settled = eventually(SETTLE_PATIENCE, || arrived(stage, cast, &tally)).await?;
        if settled {
            story.done("all of them arrived")?;
        } else {
            story.done("some did not arrive in time")?;
        }
        tally.inbound.arrived = traffic::journal(&stage.recipe, &cast.session).await?;
        let ledger = stage.simulator.control.ledger().await?;
        tally.read_ledger(&ledger, digits(NUMBER), digits(CUSTOMER));
        Ok(tally)
    }
}

fn joined<T>(outcome: Result<Result<T, Failure>, tokio::task::JoinError>) -> Result<T, Failure> {
    outcome.map_err(|error| Failure::new(Exit::Internal, error.to_string()))?
}

/// Whether nothing is missing on either side.
async fn arrived(stage: &Stage, cast: &Cast, sent: &Tally) -> Result<bool, Failure> {
    let mut tally = sent.clone();
    let ledger = stage.simulator.control.ledger().await?;
    tally.read_ledger(&ledger, digits(NUMBER), digits(CUSTOMER));
    if !tally.outbound.lost().is_empty() {
        return Ok(false);
    }
    tally.inbound.arrived = traffic::journal(&stage.recipe, &cast.session).await?;
    Ok(tally.inbound.lost().is_empty())
}

/// Creates the session and links it: the phone scans what is on the screen.
async fn link(stage: &Stage, story: &mut Story) -> Result<Cast, Failure> {
    let daemon = stage.recipe.connect().await?;
    let session = daemon.session_name(SESSION);
    let create = pb::CreateSessionRequest {
        parent: daemon.workspace_name(),
        session_id: SESSION.to_owned(),
        request_id: request_id(),
        ..pb::CreateSessionRequest::default()
    };
    daemon.sessions().create_session(create).await?;
    let pair = pb::PairSessionRequest {
        name: session.clone(),
        request_id: request_id(),
        phone: String::new(),
    };
    let mut steps = daemon.sessions().pair_session(pair).await?.into_inner();
    let mut screen = Screen::new(story.output());
    let mut scanned = false;
    let account = loop {
        let Some(response) = steps.message().await? else {
            return Err(Failure::new(
                Exit::Internal,
                "the pairing ended without a result",
            ));
        };
        match response.step {
            Some(Step::Qr(qr)) if !scanned => {
                story.done("session created; this is the QR that a phone scans:")?;
                let ttl = qr.ttl.and_then(|ttl| Duration::try_from(ttl).ok());
                screen.qr(&qr.payload, ttl.unwrap_or_default())?;
                stage.simulator.control.scan(NUMBER, &qr.payload).await?;
                scanned = true;
            }
            Some(Step::Succeeded(done)) => break super::pair::account(&done),
            Some(Step::Failed(failed)) => {
                return Err(Failure::new(
                    Exit::Refused,
                    format!("not linked: {}", failed.message),
                ));
            }
            Some(Step::Qr(_) | Step::Code(_)) | None => {}
        }
    };
    story.done(&format!(
        "the simulated phone scanned it: linked as {account}"
    ))?;
    let online = eventually(ONLINE_PATIENCE, || async {
        let session = super::session::get(&daemon, SESSION).await?;
        Ok(words::connection(&session) == "ONLINE")
    })
    .await?;
    if !online {
        return Err(Failure::new(
            Exit::Refused,
            "the session did not come online",
        ));
    }
    story.done("online, end-to-end encryption ready")?;
    Ok(Cast {
        session,
        number: NUMBER.to_owned(),
        customer: CUSTOMER.to_owned(),
    })
}

/// Keeps everything running until Ctrl-C and says what can be tried.
async fn stay(stage: &mut Stage, story: &Story) -> Result<(), Failure> {
    stage.simulator.control.auto_reply(CUSTOMER).await?;
    let ours = std::env::current_exe()?;
    let ours = ours.display();
    let socket = stage.recipe.socket();
    let control = stage.simulator.control.base();
    let output = story.output();
    output.line("\nThe daemon and the simulator stay up until Ctrl-C. In another terminal, from this directory:\n")?;
    output.line(&format!("  export TRUNKLINE_SOCKET={}", socket.display()))?;
    output.line(&format!("  {ours} session list"))?;
    output.line(&format!("  {ours} events --follow"))?;
    output.line(&format!(
        "  {ours} send {CUSTOMER} \"hello\"     # Ada answers everything"
    ))?;
    output.line(&format!(
        "  curl -s {control}/accounts/{}/messages -d '{{\"to\": \"{}\", \"text\": \"hi\"}}'",
        digits(CUSTOMER),
        digits(NUMBER)
    ))?;
    output.line(&format!("  curl -s {control}/ledger\n"))?;
    loop {
        stage.daemon.check()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

//! A live run told what to do through its socket, by clients of every kind.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use serde_json::Value;

use crate::common::{Folder, Running};

/// A run that lasts longer than its test unless it is told to stop.
const ENDLESS: [&str; 3] = [
    "train.steps=1000000",
    "checkpoint.every=0",
    "evaluate.every=0",
];

/// A live run whose folder has a path short enough for a socket inside it.
struct Live {
    folder: Folder,
    running: Running,
}

impl Live {
    fn start(settings: &[&str]) -> Self {
        let folder = Folder::new();
        let mut running = Running::start(&mut folder.train_command("run", settings));
        let metrics = folder.run("run").join("metrics.jsonl");
        let some = || std::fs::metadata(&metrics).is_ok_and(|file| file.len() > 0);
        running.wait_until(some);
        Self { folder, running }
    }

    fn socket(&self) -> PathBuf {
        self.folder.run("run").join("control.sock")
    }

    /// `bellows ctl`, its answer as JSON.
    #[track_caller]
    fn ctl(&self, command: &str) -> Value {
        let line = format!("ctl runs/run --json {command}");
        self.folder.bellows(&line).ok().json()
    }

    #[track_caller]
    fn wait_for_step(&mut self, step: u64) {
        let folder = &self.folder;
        let reached = || folder.metrics("run").keys().any(|&done| done >= step);
        self.running.wait_until(reached);
    }

    /// Waits for the event of a command: it is written behind the loop's back, as every row is.
    #[track_caller]
    fn wait_until_told(&mut self, command: &str, step: u64) {
        let folder = &self.folder;
        let told = |event: &Value| {
            event["kind"] == "command"
                && event["data"]["command"] == command
                && event["step"] == step
        };
        self.running.wait_until(|| events(folder).iter().any(told));
    }
}

/// The events that are whole.
fn events(folder: &Folder) -> Vec<Value> {
    let text = folder.text("runs/run/events.jsonl");
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// One connection.
struct Client {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Client {
    #[track_caller]
    fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("somebody listens");
        let patience = Some(Duration::from_secs(120));
        stream.set_read_timeout(patience).expect("a timeout");
        let lines = BufReader::new(stream.try_clone().expect("a handle"));
        Self { stream, lines }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("it is taken");
    }

    #[track_caller]
    fn ask(&mut self, line: impl AsRef<[u8]>) -> Value {
        self.send(line);
        self.send("\n");
        self.answer()
    }

    #[track_caller]
    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Expects that the run closes.
    #[track_caller]
    fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        // Closed with bytes unread, it reads as reset.
        let _ = self.lines.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
}

#[test]
fn every_command_takes_effect_at_the_step_that_its_answer_names() {
    let mut live = Live::start(&ENDLESS);
    let paused = live.ctl("pause")["step"].as_u64().expect("a step");
    live.wait_until_told("pause", paused);
    assert_eq!(live.folder.state("run"), "paused");
    // Many steps would fit into this time.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(live.ctl("status")["status"]["step"], paused);
    let status = live.folder.bellows("status runs/run --json").ok().json();
    assert_eq!(status["state"], "paused");

    assert!(
        live.ctl("evaluate")["validation_loss"]
            .as_f64()
            .is_some_and(f64::is_finite)
    );
    assert!(live.ctl("sample the --max-tokens 3")["text"].is_string());
    live.ctl("learning-rate 0.25");
    live.ctl("accumulation 3");
    live.ctl("intervals --routing 1 --memory 0");
    live.ctl("checkpoint");
    let resumed = live.ctl("resume");
    assert_eq!(resumed["step"], paused, "a step was taken during the pause");
    live.wait_for_step(paused + 3);

    let rows = live.folder.metrics("run");
    let number = |step: u64, key: &str| -> f64 { rows[&step][key].parse().expect("a number") };
    let rate = number(paused + 1, "learning_rate") / number(paused, "learning_rate");
    assert!((rate - 0.25).abs() < 1e-3, "the rate changed by {rate}");
    let tokens = |step| number(step, "tokens") - number(step - 1, "tokens");
    assert_eq!(tokens(paused + 1), 3.0 * tokens(paused), "tokens of a step");
    assert!(
        rows[&paused]["validation_loss"].parse::<f64>().is_ok(),
        "the evaluation is in no row"
    );
    for command in [
        "evaluate",
        "sample",
        "learning_rate_scale",
        "accumulation",
        "intervals",
        "checkpoint",
        "resume",
    ] {
        live.wait_until_told(command, paused);
    }
    let samples = live.folder.text("runs/run/samples.jsonl");
    assert!(
        samples
            .lines()
            .any(|line| line.contains("\"prompt\":\"the\"")),
        "{samples}"
    );

    let stopped = live.ctl("stop --wait")["step"].as_u64().expect("a step");
    let done = live.running.finish().ok();
    assert!(
        done.stderr.contains("stopped from outside"),
        "{}",
        done.stderr
    );
    assert_eq!(live.folder.checkpoints("run"), [paused, stopped]);
    assert_eq!(live.folder.state("run"), "stopped");
    // The scale is part of how the run goes on.
    let line = format!("resume runs/run --steps {}", stopped + 2);
    let resumed = live.folder.bellows(&line).ok();
    assert!(
        resumed.stderr.contains("learning rate × 0.25"),
        "{}",
        resumed.stderr
    );
    let rows = live.folder.metrics("run");
    assert_eq!(rows.len() as u64, stopped + 2);
}

#[test]
fn malformed_requests_are_told_what_is_wrong_and_the_connection_goes_on() {
    let live = Live::start(&ENDLESS);
    let mut client = Client::connect(&live.socket());
    let wrong: [(&[u8], &str); 10] = [
        (b"", "malformed"),
        (b"pause", "malformed"),
        (b"[1, 2]", "malformed"),
        (b"\xff\xfe\x00", "malformed"),
        (br#"{"id": 7}"#, "malformed"),
        (br#"{"command": "fly"}"#, "unknown_command"),
        (
            br#"{"version": 99, "command": "pause"}"#,
            "unsupported_version",
        ),
        (br#"{"command": "learning_rate_scale"}"#, "invalid"),
        (
            br#"{"command": "learning_rate_scale", "scale": -1}"#,
            "invalid",
        ),
        (
            br#"{"command": "intervals", "metrics_every": 0}"#,
            "invalid",
        ),
    ];
    for (line, kind) in wrong {
        let answer = client.ask(line);
        let shown = String::from_utf8_lossy(line);
        assert_eq!(answer["error"]["kind"], kind, "{shown}: {answer}");
        assert!(!answer["error"]["message"].as_str().unwrap_or("").is_empty());
    }
    let answer = client.ask(r#"{"id": 12, "command": "status"}"#);
    assert_eq!(
        (&answer["id"], &answer["done"]["status"]["state"]),
        (&12.into(), &"running".into())
    );
    // Two requests in one packet, and one byte by byte, are requests all the same.
    client.send("{\"id\":1,\"command\":\"status\"}\n{\"id\":2,\"command\":\"status\"}\n");
    assert_eq!(
        (client.answer()["id"].clone(), client.answer()["id"].clone()),
        (1.into(), 2.into())
    );
    for byte in b"{\"id\":3,\"command\":\"status\"}\n" {
        client.send([*byte]);
    }
    assert_eq!(client.answer()["id"], 3);
    let commands = events(&live.folder)
        .iter()
        .filter(|event| event["kind"] == "command")
        .count();
    assert_eq!(commands, 0, "a wrong request left an event");
    live.ctl("stop --wait");
    live.running.finish().ok();
}

#[test]
fn an_oversized_request_is_refused_before_it_is_whole() {
    let live = Live::start(&ENDLESS);
    let mut client = Client::connect(&live.socket());
    let piece = [b'x'; 64 << 10];
    // It closes at some point of this megabyte.
    for _ in 0..16 {
        if client.stream.write_all(&piece).is_err() {
            break;
        }
    }
    // The answer may be lost to the reset that unread bytes cause; what matters is the end.
    let mut answer = String::new();
    if client.lines.read_line(&mut answer).is_ok() && !answer.is_empty() {
        let answer: Value = serde_json::from_str(&answer).expect("an answer");
        assert_eq!(answer["error"]["kind"], "too_long");
    }
    client.assert_closed();
    // Just above the longest, in one line: the answer comes.
    let mut client = Client::connect(&live.socket());
    let line = format!(
        "{{\"command\":\"sample\",\"prompt\":\"{}\"}}",
        "y".repeat(40 << 10)
    );
    assert_eq!(client.ask(line)["error"]["kind"], "invalid");
    live.ctl("stop --wait");
    live.running.finish().ok();
}

#[test]
fn a_client_that_dies_mid_command_leaves_the_run_as_it_was_told() {
    let mut live = Live::start(&ENDLESS);
    // Half a command is none.
    Client::connect(&live.socket()).send(r#"{"command": "stop""#);
    // A whole one counts, though nobody waits for its answer.
    Client::connect(&live.socket()).send("{\"command\": \"pause\"}\n");
    let folder = &live.folder;
    live.running.wait_until(|| folder.state("run") == "paused");
    let step = live.ctl("status")["step"].as_u64().expect("a step");
    live.wait_until_told("pause", step);
    // Nobody reads the answers of this one, and then it is gone.
    let mut deaf = Client::connect(&live.socket());
    for _ in 0..200 {
        deaf.send("{\"command\": \"status\"}\n");
    }
    drop(deaf);
    live.ctl("resume");
    live.wait_for_step(step + 2);
    assert!(!live.running.ended());
    live.ctl("stop --wait");
    live.running.finish().ok();
}

#[test]
fn a_hundred_clients_at_once_change_no_bit_of_the_run() {
    const STEPS: u64 = 200;
    const SETTINGS: [&str; 2] = ["train.steps=200", "checkpoint.every=100"];
    let live = Live::start(&SETTINGS);
    let mut first = Client::connect(&live.socket());
    let paused = first.ask(r#"{"command": "pause"}"#);
    let step = paused["done"]["step"].as_u64().expect("a step");
    assert!(step < STEPS, "it ended before it could be disturbed");
    let together = Arc::new(Barrier::new(101));
    let clients: Vec<_> = (0..100)
        .map(|id| {
            let (socket, together) = (live.socket(), together.clone());
            std::thread::spawn(move || disturb(id, &socket, &together))
        })
        .collect();
    // All are connected; then all have had their answers.
    together.wait();
    together.wait();
    assert_eq!(first.ask(r#"{"command": "resume"}"#)["done"]["step"], step);
    together.wait();
    for client in clients {
        client.join().expect("a client was answered wrongly");
    }
    let socket = live.socket();
    live.running.finish().ok();
    live.folder.train("undisturbed", &SETTINGS).ok();
    live.folder.assert_equal_runs("undisturbed", "run", STEPS);
    assert!(!socket.exists(), "the socket outlives the run");
}

/// What one of many clients says: good, wrong and half requests, before and after the run goes on.
fn disturb(id: u64, socket: &Path, together: &Barrier) {
    let mut client = Client::connect(socket);
    together.wait();
    let neutral = format!(r#"{{"id":{id},"command":"learning_rate_scale","scale":1}}"#);
    for round in 0..6 {
        match (id + round) % 3 {
            0 => assert_eq!(client.ask("no JSON")["error"]["kind"], "malformed"),
            1 => assert!(client.ask(r#"{"command":"status"}"#)["done"]["status"].is_object()),
            _ => assert_eq!(client.ask(&neutral)["id"], id),
        }
    }
    together.wait();
    together.wait();
    // The run may end before it hears of this; half of the clients are cut off in a word.
    let end = if id.is_multiple_of(2) { "\n" } else { "" };
    let _ = client
        .stream
        .write_all(format!("{neutral}{end}").as_bytes());
}

#[test]
fn the_socket_is_its_owners_alone_and_a_killed_runs_socket_is_replaced() {
    let mut live = Live::start(&["train.steps=1000000", "checkpoint.every=2"]);
    let mode = std::fs::metadata(live.socket())
        .expect("a socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    let folder = &live.folder;
    let saved = || folder.checkpoint("run", 2, "state.json").exists();
    live.running.wait_until(saved);
    live.running.signal(libc::SIGKILL);
    live.running.finish();
    let folder = live.folder;
    assert!(
        folder.run("run").join("control.sock").exists(),
        "nothing to replace"
    );
    folder
        .bellows("ctl runs/run pause")
        .refused(&["is not training", "crashed", "bellows resume"]);
    let mut running = Running::start(&mut folder.command("resume runs/run"));
    running.wait_for_line("from step");
    running.wait_until(|| folder.bellows("ctl runs/run status").code == Some(0));
    folder.bellows("ctl runs/run stop --wait").ok();
    running.finish().ok();
}

#[test]
fn a_command_out_of_range_or_to_an_ended_run_is_refused_in_words() {
    let folder = Folder::new();
    folder.train("run", &["train.steps=2"]).ok();
    folder
        .bellows("ctl runs/run pause")
        .refused(&["is not training", "finished"]);
    folder
        .bellows("ctl runs/run learning-rate 0")
        .refused(&["scale is 0", "above 0"]);
    folder
        .bellows("ctl runs/run accumulation 0")
        .refused(&["micro_batches is 0", "1 to 65536"]);
    folder
        .bellows("ctl runs/run intervals")
        .refused(&["no interval"]);
    folder.bellows("ctl corpus pause").refused(&["corpus"]);
}

#[test]
fn metrics_are_exported_a_row_a_step() {
    let folder = Folder::new();
    folder.train("run", &["train.steps=5"]).ok();
    let table = folder.bellows("export-metrics runs/run --csv").ok().stdout;
    let mut lines = table.lines();
    let header = lines.next().expect("a header");
    assert!(header.starts_with("step,"), "{header}");
    let rows: Vec<&str> = lines.collect();
    assert_eq!(rows.len(), 5);
    let columns = header.split(',').count();
    assert!(
        rows.iter().all(|row| row.split(',').count() == columns),
        "{table}"
    );
    let place = header
        .split(',')
        .position(|name| name == "loss")
        .expect("a loss");
    for (step, row) in folder.metrics("run") {
        let fields: Vec<&str> = rows[step as usize - 1].split(',').collect();
        let wanted: f64 = row["loss"].parse().expect("a number");
        assert_eq!(fields[place].parse(), Ok(wanted), "step {step}");
    }
}

//! The service's normal life: started, looked at, reloaded, stopped.

use serde_json::Value;

use crate::machine::{MAKE_KEK, Machine, PATIENCE};
use crate::support::eventually;

/// The daemon's own lines: what is JSON in the journal's messages.
fn structured(journal: &[Value]) -> Vec<(Value, Value)> {
    journal
        .iter()
        .filter(|entry| entry["_COMM"] == "trunkline")
        .map(|entry| {
            let text = entry["MESSAGE"].as_str().unwrap_or_default();
            let line = serde_json::from_str(text).unwrap_or_else(|_| panic!("not JSON: {text}"));
            (entry["PRIORITY"].clone(), line)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_as_a_user_of_its_own_and_stops_in_good_order() {
    let machine = Machine::boot().await;
    machine.shell(MAKE_KEK);
    // Type=notify: this returns when READY has arrived, or fails.
    machine.runs(&["systemctl", "start", "trunkline"]);
    assert_eq!(machine.property("ActiveState"), "active");
    assert_eq!(machine.property("SubState"), "running");
    let pid = machine.property("MainPID");

    // DynamicUser and StateDirectory.
    let uid = machine.shell(&format!("stat -c %u /proc/{pid}"));
    assert!(
        (61_184..=65_519).contains(&uid.parse::<u32>().unwrap()),
        "{uid}"
    );
    let state = "stat -L -c '%u %a'";
    assert_eq!(
        machine.shell(&format!("{state} /var/lib/trunkline")),
        format!("{uid} 700")
    );
    assert_eq!(
        machine.shell(&format!("{state} /var/lib/trunkline/store")),
        format!("{uid} 700")
    );
    assert_eq!(machine.shell("stat -c %a /run/trunkline"), "750");

    // The key came as a credential: none was generated beside the data.
    assert_eq!(
        machine.shell("find /var/lib/trunkline/ -name development.kek"),
        ""
    );
    let root_only = machine.run(&[
        "setpriv",
        "--reuid=65534",
        "--clear-groups",
        "trunkline",
        "session",
        "list",
    ]);
    assert_eq!(root_only.status.code(), Some(77), "{root_only:?}");

    // The operator's socket, and what `systemctl status` shows.
    machine.runs(&["trunkline", "session", "create", "shop"]);
    assert!(
        machine
            .runs(&["trunkline", "session", "list"])
            .contains("shop")
    );
    assert!(
        machine
            .property("StatusText")
            .contains("connected, backlog"),
        "{}",
        machine.property("StatusText")
    );

    machine.runs(&["systemctl", "stop", "trunkline"]);
    // Neither killed for taking too long nor ended by a signal: it drained.
    assert_eq!(machine.property("Result"), "success");
    assert_eq!(machine.property("ExecMainStatus"), "0");
    let journal = structured(&machine.journal());
    let said = |message: &str| journal.iter().any(|(_, line)| line["message"] == message);
    assert!(said("serving") && said("stopped"), "{journal:?}");
    assert!(journal.iter().all(|(_, line)| line["level"].is_string()));
    let of_level = |level: &str| journal.iter().find(|(_, line)| line["level"] == level);
    assert_eq!(of_level("INFO").unwrap().0, "6");
    assert_eq!(
        of_level("WARN").expect("the build warns about itself").0,
        "4"
    );

    // Root does not open what is the daemon's, and is told how it is done.
    let at_rest = |output: &str| -> Value {
        let mut findings = output
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let store = findings.find(|finding| finding["check"] == "store");
        store.unwrap_or_else(|| panic!("{output}"))
    };
    // It fails because there is no daemon.
    let quietly = "--offline --output json 2>/dev/null || true";
    let of_root = at_rest(&machine.shell(&format!("trunkline doctor {quietly}")));
    assert_eq!(of_root["level"], "warning", "{of_root}");
    let fix = of_root["fix"].as_str().unwrap();
    let (_, command) = fix.split_once(": ").expect("a command");
    let of_service = at_rest(&machine.shell(&format!("{command} {quietly}")));
    assert_eq!(of_service["level"], "ok", "{of_service}");
    assert!(
        of_service["found"]
            .as_str()
            .unwrap()
            .contains("sessions: 1;"),
        "{of_service}"
    );

    // The same state with the same key.
    machine.runs(&["systemctl", "start", "trunkline"]);
    assert!(
        machine
            .runs(&["trunkline", "session", "list"])
            .contains("shop")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_the_log_level_and_names_what_needs_a_restart() {
    let machine = Machine::boot().await;
    machine.runs(&["systemctl", "start", "trunkline"]);
    let pid = machine.property("MainPID");
    let config = |more: &str| {
        machine.write(
            "/etc/trunkline/trunkline.toml",
            &format!("{}{more}", crate::machine::CONFIG),
        );
        machine.runs(&["systemctl", "reload", "trunkline"]);
    };
    // The reload is a signal: the log says when it has happened.
    let logged = async |part: &str| {
        eventually(part, PATIENCE, async || {
            machine.lines().iter().any(|line| line.contains(part))
        })
        .await;
    };
    config("[log]\nlevel = \"warn\"\n[store]\ncache = \"32MiB\"\n");
    logged("these need a restart").await;
    eventually("it is ready again", PATIENCE, async || {
        machine.property("SubState") == "running"
    })
    .await;
    assert!(
        !machine
            .lines()
            .iter()
            .any(|line| line.contains("\"reloaded\""))
    );

    config("[log]\nlevel = \"nonsense=loud\"\n");
    logged("everything stays as it was").await;
    config("[log]\nlevel = \"info\"\n");
    logged("\"applied\":\"log.level\"").await;
    assert_eq!(machine.property("MainPID"), pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_root_does_with_a_resting_store_leaves_nothing_of_its_own_in_it() {
    let machine = Machine::boot().await;
    machine.write(
        "/srv/line/trunkline.toml",
        "state_dir = \"/srv/line/state\"\n\
         [listen]\ngrpc = \"off\"\nops = \"off\"\n\
         [keys]\nsource = \"file\"\nfile = \"/srv/line/kek\"\n\
         [multidevice]\nendpoint = \"ws://127.0.0.1:9/ws/chat\"\n",
    );
    machine.shell(
        "head -c 32 /dev/urandom | base64 >/srv/line/kek
         chmod 600 /srv/line/kek
         chown -R 4711:4711 /srv/line",
    );
    // Runs the daemon until it answers, and lets it drain.
    let serve = "\
         setpriv --reuid=4711 --regid=4711 --clear-groups \
             trunkline --config /srv/line/trunkline.toml serve &
         timeout 180 sh -c '
             until trunkline --config /srv/line/trunkline.toml session list; do sleep 0.2; done
         ' >/dev/null 2>&1
         kill $!
         wait $!";
    machine.shell(serve);
    // As strict as root may be: what it makes is then for root alone.
    let recipient = age::x25519::Identity::generate().to_public();
    machine.shell(&format!(
        "umask 077
         trunkline --config /srv/line/trunkline.toml backup /srv/line.age --offline -r {recipient}"
    ));
    let foreign = machine.shell("find /srv/line/state ! -uid 4711");
    assert_eq!(foreign, "");
    machine.shell(serve);
}

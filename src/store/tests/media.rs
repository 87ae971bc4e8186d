//! Uploaded files: durable, sealed, kept as long as they are needed, and gone with what they belong to.

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::domain::clock::Clock as _;
use crate::domain::ids::MediaId;
use crate::domain::media::{MediaKind, UploadedMedia};
use crate::domain::message::MessageState;
use crate::store::media::{IncomingError, MediaOptions, MediaStore, NewMedia};
use crate::store::{BodyHash, EnqueueError, LookupError, Remember, Step};

const KEEP: Duration = Duration::from_hours(24);

struct Shelf {
    world: World,
    dir: tempfile::TempDir,
}

impl Shelf {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        let clock = ManualClock::at(NOW);
        let world = World {
            store: open(&engine, &clock, &dir).await,
            engine,
            clock,
        };
        Self { world, dir }
    }

    /// The same rows and files, as another run of the daemon finds them.
    async fn restarted(mut self) -> Self {
        self.world.store = open(&self.world.engine, &self.world.clock, &self.dir).await;
        self
    }

    async fn session(&self, id: &str) -> SessionStore {
        self.world.session(id).await
    }

    /// Everything on disk.
    fn files(&self) -> Vec<PathBuf> {
        fn below(dir: PathBuf) -> Vec<PathBuf> {
            let entries = std::fs::read_dir(dir).into_iter().flatten();
            let paths = entries.map(|entry| entry.unwrap().path());
            paths
                .flat_map(|path| {
                    if path.is_dir() {
                        below(path)
                    } else {
                        vec![path]
                    }
                })
                .collect()
        }
        below(self.dir.path().join("media"))
    }

    async fn sweep_after(&self, time: Duration) {
        self.world.clock.advance(time);
        self.world.store.sweep().await.unwrap();
    }
}

async fn open(engine: &Arc<dyn Engine>, clock: &ManualClock, dir: &tempfile::TempDir) -> Store {
    let options = StoreOptions {
        media: Some(MediaOptions {
            dir: dir.path().join("media"),
            max_file: 1_000_000,
            max_workspace: 2_000_000,
            keep: KEEP,
        }),
        ..options(engine, clock, 1)
    };
    Store::open(options).await.unwrap()
}

fn media(session: &SessionStore) -> MediaStore {
    session.media().unwrap()
}

async fn upload(session: &SessionStore, bytes: &[u8]) -> UploadedMedia {
    let store = media(session);
    let mut incoming = store.begin();
    for chunk in bytes.chunks(1_000) {
        let chunk = bytes::Bytes::copy_from_slice(chunk);
        incoming.write(chunk).await.unwrap();
    }
    let sealed = incoming.finish().await.unwrap();
    let new = NewMedia {
        mime_type: "image/jpeg".into(),
        file_name: Some("a.jpg".into()),
    };
    store
        .keep(sealed, new, remember(session), false)
        .await
        .unwrap()
}

fn remember(session: &SessionStore) -> Remember<UploadedMedia> {
    let id = Entropy::from_system().unwrap().uuid();
    let requests = session.workspace().requests();
    let body = BodyHash::of("UploadMedia", b"");
    Remember::new(requests, RequestId(id), body, |media: &UploadedMedia| {
        media.id.0.as_bytes().to_vec()
    })
}

/// Until a file that is dropped elsewhere is gone.
async fn eventually(done: impl Fn() -> bool) {
    let patience = tokio::time::Instant::now() + Duration::from_mins(1);
    while !done() {
        assert!(tokio::time::Instant::now() < patience, "it never happened");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn read(session: &SessionStore, id: MediaId) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let (_, file) = media(session).open(id).await.unwrap();
    let mut bytes = Vec::new();
    file.read()?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn carrying(request: u128, id: MediaId) -> NewMessage {
    NewMessage {
        media: Some(id),
        ..outbound(request, &person("+15551234567", None), "a picture")
    }
}

#[tokio::test]
async fn a_file_is_read_back_as_it_came_also_after_a_restart() {
    let shelf = Shelf::new().await;
    let picture: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let kept = upload(&shelf.session("a").await, &picture).await;
    assert_eq!(kept.size, 800_000);
    let shelf = shelf.restarted().await;
    let session = shelf.session("a").await;
    assert_eq!(media(&session).get(kept.id).await.unwrap(), kept);
    assert!(read(&session, kept.id).await.unwrap() == picture);
    let [file] = &shelf.files()[..] else {
        panic!("one file");
    };
    let stored = std::fs::read(file).unwrap();
    let piece = &picture[1_000..1_064];
    assert!(!stored.windows(64).any(|window| window == piece), "sealed");
}

#[tokio::test]
async fn a_file_that_was_changed_on_disk_is_not_given_out() {
    let shelf = Shelf::new().await;
    let session = shelf.session("a").await;
    let kept = upload(&session, &vec![7; 300_000]).await;
    let path = shelf.files().pop().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[150_000] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    assert!(read(&session, kept.id).await.is_err());
    std::fs::write(&path, &whole[..200_000]).unwrap();
    assert!(read(&session, kept.id).await.is_err());
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(read(&session, kept.id).await.unwrap().len(), 300_000);
}

#[tokio::test]
async fn what_was_still_coming_in_or_has_no_row_goes_at_the_next_open() {
    let shelf = Shelf::new().await;
    let session = shelf.session("a").await;
    let kept = upload(&session, b"kept").await;
    // As a SIGKILL leaves them.
    let beside = shelf.files().pop().unwrap();
    std::fs::write(beside.with_extension("part"), b"half").unwrap();
    let orphan = beside.with_file_name("1b4e28ba-2fa1-4d2b-883f-0016d3cca427");
    std::fs::write(&orphan, b"no row").unwrap();
    let shelf = shelf.restarted().await;
    assert_eq!(shelf.files(), [beside]);
    let session = shelf.session("a").await;
    assert_eq!(read(&session, kept.id).await.unwrap(), b"kept");
}

#[tokio::test]
async fn an_upload_that_is_dropped_leaves_nothing() {
    let shelf = Shelf::new().await;
    let session = shelf.session("a").await;
    let mut incoming = media(&session).begin();
    incoming.write(b"half of it"[..].into()).await.unwrap();
    eventually(|| shelf.files().len() == 1).await;
    drop(incoming);
    eventually(|| shelf.files().is_empty()).await;
    let sealed = media(&session).begin().finish().await;
    drop(sealed.unwrap());
    assert_eq!(shelf.files(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn limits_hold_for_a_file_and_for_a_workspace() {
    let shelf = Shelf::new().await;
    let session = shelf.session("a").await;
    let mut long = media(&session).begin();
    long.write(vec![0; 999_999].into()).await.unwrap();
    let refused = long.write(vec![0; 2].into()).await.unwrap_err();
    assert!(matches!(
        refused,
        IncomingError::TooLarge { most: 1_000_000 }
    ));
    eventually(|| shelf.files().len() == 1).await;
    drop(long);
    eventually(|| shelf.files().is_empty()).await;
    upload(&session, &vec![1; 900_000]).await;
    // Another session, the same workspace.
    let other = shelf.session("b").await;
    upload(&other, &vec![1; 900_000]).await;
    let mut more = media(&other).begin();
    more.write(vec![0; 300_000].into()).await.unwrap();
    let refused = more.finish().await.unwrap_err();
    assert!(matches!(refused, IncomingError::Full { most: 2_000_000 }));
    let workspace = other.workspace().clone();
    let gone = SessionId::new("a").unwrap();
    workspace.sessions().delete(&gone, None).await.unwrap();
    upload(&other, &vec![1; 300_000]).await;
}

#[tokio::test]
async fn a_file_goes_with_its_deadline_unless_a_message_waits_for_it() {
    let shelf = Shelf::new().await;
    let session = shelf.session("a").await;
    let (needed, spare) = (
        upload(&session, b"needed").await,
        upload(&session, b"spare").await,
    );
    let outbox = session.outbox();
    let first = outbox
        .enqueue(carrying(1, needed.id))
        .await
        .unwrap()
        .message;
    let second = outbox
        .enqueue(carrying(2, needed.id))
        .await
        .unwrap()
        .message;
    shelf.sweep_after(KEEP + Duration::from_hours(2)).await;
    assert_eq!(shelf.files().len(), 1, "the spare one is gone");
    assert!(matches!(
        media(&session).get(spare.id).await,
        Err(LookupError::NotFound { .. })
    ));
    let refused = outbox.enqueue(carrying(3, spare.id)).await.unwrap_err();
    assert!(matches!(refused, EnqueueError::NoMedia { .. }), "{refused}");

    let settle = async |id, to| {
        let step = Step::to(to, shelf.world.clock.now());
        outbox.transition(id, step).await.unwrap();
    };
    settle(first.id, MessageState::Canceled).await;
    shelf.sweep_after(Duration::from_hours(3)).await;
    assert_eq!(read(&session, needed.id).await.unwrap(), b"needed");
    settle(second.id, MessageState::Sending).await;
    settle(second.id, MessageState::Sent).await;
    // Receipts after the end count nothing twice.
    settle(second.id, MessageState::Delivered).await;
    shelf.sweep_after(Duration::from_hours(3)).await;
    assert_eq!(shelf.files(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_message_is_completed_only_while_it_is_queued() {
    let shelf = Shelf::new().await;
    let session = shelf.session("a").await;
    let kept = upload(&session, b"x").await;
    let outbox = session.outbox();
    let message = outbox.enqueue(carrying(1, kept.id)).await.unwrap().message;
    assert!(outbox.queue(0, 10).await.unwrap()[0].awaits_upload);
    assert!(
        outbox
            .complete(message.id, b"whole".to_vec())
            .await
            .unwrap()
    );
    assert!(!outbox.queue(0, 10).await.unwrap()[0].awaits_upload);
    let step = Step::to(MessageState::Canceled, shelf.world.clock.now());
    outbox.transition(message.id, step).await.unwrap();
    assert!(!outbox.complete(message.id, b"late".to_vec()).await.unwrap());
    assert_eq!(outbox.get(message.id).await.unwrap().encoded, b"whole");
}

#[tokio::test]
async fn where_the_provider_keeps_a_file_is_remembered_for_each_kind() {
    let shelf = Shelf::new().await;
    let session = shelf.session("a").await;
    let kept = upload(&session, b"x").await;
    let store = media(&session);
    let noted = async |kind| {
        let departing = store.depart(kept.id, kind).await.unwrap();
        departing.reference.map(|(reference, _)| reference)
    };
    assert_eq!(noted(MediaKind::Image).await, None);
    for note in [b"old".to_vec(), b"new".to_vec()] {
        store
            .remember_reference(kept.id, MediaKind::Image, note)
            .await
            .unwrap();
    }
    assert_eq!(noted(MediaKind::Image).await, Some(b"new".to_vec()));
    assert_eq!(noted(MediaKind::Document).await, None);
}

#[tokio::test]
async fn files_go_with_their_session_and_their_workspace() {
    let shelf = Shelf::new().await;
    let (one, other) = (shelf.session("a").await, shelf.session("b").await);
    upload(&one, b"one").await;
    let kept = upload(&other, b"other").await;
    let workspace = one.workspace().clone();
    let gone = SessionId::new("a").unwrap();
    workspace.sessions().delete(&gone, None).await.unwrap();
    assert_eq!(shelf.files().len(), 1);
    assert_eq!(read(&other, kept.id).await.unwrap(), b"other");
    assert!(matches!(
        media(&one).get(kept.id).await,
        Err(LookupError::NotFound { .. })
    ));

    let acme = WorkspaceId::new("acme").unwrap();
    shelf.world.store.create_workspace(&acme, "").await.unwrap();
    let tenant = shelf.world.store.workspace(&acme).await.unwrap();
    tenant.sessions().create(new_session("s")).await.unwrap();
    let session = tenant.session(&SessionId::new("s").unwrap()).await.unwrap();
    upload(&session, b"tenant's").await;
    assert_eq!(shelf.files().len(), 2);
    shelf
        .world
        .store
        .delete_workspace(&acme, None)
        .await
        .unwrap();
    assert_eq!(shelf.files().len(), 1);
}

//! Reading what a message is to say.

use super::media::file_name;
use super::names::{FileId, MediaName};
use super::status::{ApiError, Reason};
use super::{convert, fields};
use crate::domain::ids::{MediaId, SessionName};
use crate::domain::media::{Media, MediaKind, UploadedMedia};
use crate::domain::message::{Content, MAX_TEXT_CHARS};
use crate::pb::OutboundMedia;
use crate::pb::send_message_request::Content as Given;
use crate::store::SessionStore;

/// Largest thumbnail, in bytes.
const MAX_THUMBNAIL: usize = 64 << 10;

/// Longest side of a picture, in pixels, and longest time it plays, in seconds.
const MAX_MEASURE: u32 = 1_000_000;

/// What a message is to say, and the uploaded file it carries.
pub(super) async fn read(
    given: Option<Given>,
    session: &SessionStore,
) -> Result<(Content, Option<MediaId>), ApiError> {
    match given {
        Some(Given::Text(text)) => {
            length("text.text", &text.text)?;
            Ok((Content::Text { text: text.text }, None))
        }
        Some(Given::Media(media)) => {
            let id = own_file(&media.name, &session.name())?;
            let missing = || ApiError::not_found(&media.name);
            let files = session.media().ok_or_else(missing)?;
            let uploaded = files.get(id).await;
            let uploaded = uploaded.map_err(|error| ApiError::from(error).at(&media.name))?;
            let media = Box::new(describe(media, uploaded)?);
            Ok((Content::Media { media }, Some(id)))
        }
        None => Err(ApiError::field(
            "content",
            "is required: what should be sent? Give `text` or `media`",
        )),
    }
}

fn length(field: &'static str, text: &str) -> Result<(), ApiError> {
    let length = text.chars().count();
    if (1..=MAX_TEXT_CHARS).contains(&length) {
        return Ok(());
    }
    Err(ApiError::field(
        field,
        format!("has {length} characters; 1 to {MAX_TEXT_CHARS} are allowed"),
    ))
}

/// The file that is named, if it can be one of this session's.
fn own_file(name: &str, session: &SessionName) -> Result<MediaId, ApiError> {
    let named = MediaName::parse("media.name", name)?;
    match named.file {
        // What lies in another session does not exist for this one.
        FileId::Uploaded(_) if named.session != *session => Err(ApiError::not_found(name)),
        FileId::Uploaded(id) => Ok(id),
        FileId::Arrived(_) => Err(ApiError::field(
            "media.name",
            "names a file that arrived; to send it on, download it and upload it again",
        )),
    }
}

/// What the message will say of the file.
fn describe(given: OutboundMedia, uploaded: UploadedMedia) -> Result<Media, ApiError> {
    use MediaKind::{Audio, Document, Image, Sticker, Video, Voice};
    let kind = convert::read_kind(given.kind, &uploaded.mime_type)?;
    let only = |field: &'static str, set: bool, kinds: &[MediaKind]| {
        if !set || kinds.contains(&kind) {
            return Ok(());
        }
        let names: Vec<_> = kinds.iter().map(|kind| convert::kind_name(*kind)).collect();
        Err(ApiError::field_with(
            Reason::UnsupportedContent,
            field,
            format!(
                "is not shown with {}: only with {}",
                convert::kind_name(kind),
                names.join(", ")
            ),
        ))
    };
    let shown = given.width.is_some() || given.height.is_some();
    only(
        "media.caption",
        given.caption.is_some(),
        &[Image, Video, Document],
    )?;
    only("media.file_name", given.file_name.is_some(), &[Document])?;
    only(
        "media.duration",
        given.duration.is_some(),
        &[Video, Audio, Voice],
    )?;
    only("media.width", shown, &[Image, Video, Sticker])?;
    only(
        "media.thumbnail",
        !given.thumbnail.is_empty(),
        &[Image, Video, Document],
    )?;
    if kind == Sticker && !uploaded.mime_type.starts_with("image/webp") {
        return Err(ApiError::field_with(
            Reason::UnsupportedContent,
            "media.kind",
            "a sticker must be image/webp",
        ));
    }
    if let Some(caption) = &given.caption {
        length("media.caption", caption)?;
    }
    if let Some(name) = &given.file_name {
        file_name("media.file_name", name)?;
    }
    if given.thumbnail.len() > MAX_THUMBNAIL {
        let length = given.thumbnail.len();
        return Err(ApiError::field(
            "media.thumbnail",
            format!("has {length} bytes; at most {MAX_THUMBNAIL} are allowed"),
        ));
    }
    let longest = std::time::Duration::from_secs(MAX_MEASURE.into());
    let duration = fields::span(
        "media.duration",
        given.duration,
        std::time::Duration::ZERO..=longest,
    )?;
    for (field, measure) in [("media.width", given.width), ("media.height", given.height)] {
        if measure.is_some_and(|pixels| !(1..=MAX_MEASURE).contains(&pixels)) {
            return Err(ApiError::field(field, "must be 1 to 1000000 pixels"));
        }
    }
    Ok(Media {
        kind,
        mime_type: uploaded.mime_type,
        size: uploaded.size,
        sha256: uploaded.sha256,
        caption: given.caption,
        file_name: match kind {
            // Recipients see nothing but its name.
            Document => given
                .file_name
                .or(uploaded.file_name)
                .or_else(|| Some("file".into())),
            _ => None,
        },
        seconds: duration.map(|span| u32::try_from(span.as_secs()).unwrap_or(MAX_MEASURE)),
        width: given.width,
        height: given.height,
        thumbnail: given.thumbnail,
        raw: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::Timestamp;
    use crate::domain::media::Sha256;
    use crate::pb;

    fn uploaded(mime_type: &str) -> UploadedMedia {
        UploadedMedia {
            id: MediaId(uuid::Uuid::nil()),
            mime_type: mime_type.into(),
            file_name: Some("as uploaded.pdf".into()),
            size: 9,
            sha256: Sha256([1; 32]),
            created_at: Timestamp(1),
            expires_at: Timestamp(2),
        }
    }

    #[test]
    fn the_kind_follows_from_the_mime_type_unless_it_is_said() {
        for (mime, kind) in [
            ("image/jpeg", MediaKind::Image),
            ("video/mp4", MediaKind::Video),
            ("audio/ogg; codecs=opus", MediaKind::Audio),
            ("image/webp", MediaKind::Document),
            ("application/pdf", MediaKind::Document),
        ] {
            let media = describe(OutboundMedia::default(), uploaded(mime)).unwrap();
            assert_eq!(media.kind, kind, "{mime}");
        }
        let voice = OutboundMedia {
            kind: pb::MediaKind::Voice.into(),
            ..OutboundMedia::default()
        };
        let media = describe(voice, uploaded("audio/ogg; codecs=opus")).unwrap();
        assert_eq!(media.kind, MediaKind::Voice);
    }

    #[test]
    fn what_recipients_would_not_see_is_refused() {
        let caption = OutboundMedia {
            caption: Some("listen".into()),
            ..OutboundMedia::default()
        };
        assert!(describe(caption.clone(), uploaded("image/png")).is_ok());
        let error = describe(caption, uploaded("audio/mpeg")).unwrap_err();
        assert_eq!(error.reason(), Reason::UnsupportedContent);
        let sticker = OutboundMedia {
            kind: pb::MediaKind::Sticker.into(),
            ..OutboundMedia::default()
        };
        assert!(describe(sticker.clone(), uploaded("image/webp")).is_ok());
        assert!(describe(sticker, uploaded("image/png")).is_err());
    }

    #[test]
    fn a_document_has_a_name() {
        let named = |given: Option<&str>| {
            let given = OutboundMedia {
                file_name: given.map(str::to_owned),
                ..OutboundMedia::default()
            };
            describe(given, uploaded("application/pdf")).map(|media| media.file_name)
        };
        assert_eq!(named(None).unwrap().as_deref(), Some("as uploaded.pdf"));
        assert_eq!(named(Some("a.pdf")).unwrap().as_deref(), Some("a.pdf"));
        assert!(named(Some("../a.pdf")).is_err());
    }

    #[test]
    fn only_uploads_of_the_same_session_can_be_sent() {
        let main = SessionName::from_name("parent", "workspaces/w/sessions/main").unwrap();
        let id = "1b4e28ba-2fa1-4d2b-883f-0016d3cca427";
        let name = |session: &str, id: &str| format!("workspaces/w/sessions/{session}/media/{id}");
        assert!(own_file(&name("main", id), &main).is_ok());
        let foreign = own_file(&name("other", id), &main).unwrap_err();
        assert_eq!(foreign.reason(), Reason::ResourceNotFound);
        let arrived = own_file(&name("main", "7"), &main).unwrap_err();
        assert_eq!(arrived.reason(), Reason::InvalidField);
    }
}

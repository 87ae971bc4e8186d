//! Files on their way out: what their messages say of them, and where they lie once they are uploaded.

use serde::{Deserialize, Serialize};
use waproto::buffa::MessageField;
use waproto::whatsapp as wa;
use whatsapp_rust::upload::UploadResponse;

use crate::domain::media::{Media, MediaKind};
use crate::domain::message::base64_bytes;

/// Where an uploaded file lies, and what opens it: the provider's note, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Reference {
    url: String,
    direct_path: String,
    #[serde(with = "base64_bytes")]
    media_key: Vec<u8>,
    #[serde(with = "base64_bytes")]
    file_enc_sha256: Vec<u8>,
    /// Seconds since 1970.
    media_key_timestamp: i64,
    /// Lets players begin before the end.
    #[serde(with = "base64_bytes")]
    streaming_sidecar: Vec<u8>,
}

impl From<UploadResponse> for Reference {
    fn from(answer: UploadResponse) -> Self {
        Self {
            url: answer.url,
            direct_path: answer.direct_path,
            media_key: answer.media_key.to_vec(),
            file_enc_sha256: answer.file_enc_sha256.to_vec(),
            media_key_timestamp: answer.media_key_timestamp,
            streaming_sidecar: answer.streaming_sidecar.unwrap_or_default(),
        }
    }
}

/// The message of a file that is not uploaded yet.
pub(in super::super) fn message(media: &Media) -> wa::Message {
    let said = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let mimetype = said(&media.mime_type);
    let file_sha256 = Some(media.sha256.0.to_vec());
    let file_length = Some(media.size);
    let jpeg_thumbnail = Some(media.thumbnail.clone()).filter(|bytes| !bytes.is_empty());
    let mut message = wa::Message::default();
    match media.kind {
        MediaKind::Image => {
            message.image_message = MessageField::some(wa::message::ImageMessage {
                mimetype,
                file_sha256,
                file_length,
                jpeg_thumbnail,
                caption: media.caption.clone(),
                width: media.width,
                height: media.height,
                ..Default::default()
            });
        }
        MediaKind::Video => {
            message.video_message = MessageField::some(wa::message::VideoMessage {
                mimetype,
                file_sha256,
                file_length,
                jpeg_thumbnail,
                caption: media.caption.clone(),
                seconds: media.seconds,
                width: media.width,
                height: media.height,
                ..Default::default()
            });
        }
        MediaKind::Audio | MediaKind::Voice => {
            message.audio_message = MessageField::some(wa::message::AudioMessage {
                mimetype,
                file_sha256,
                file_length,
                seconds: media.seconds,
                ptt: Some(media.kind == MediaKind::Voice),
                ..Default::default()
            });
        }
        MediaKind::Document => {
            message.document_message = MessageField::some(wa::message::DocumentMessage {
                mimetype,
                file_sha256,
                file_length,
                jpeg_thumbnail,
                title: media.file_name.clone(),
                file_name: media.file_name.clone(),
                caption: media.caption.clone(),
                ..Default::default()
            });
        }
        MediaKind::Sticker => {
            message.sticker_message = MessageField::some(wa::message::StickerMessage {
                mimetype,
                file_sha256,
                file_length,
                width: media.width,
                height: media.height,
                ..Default::default()
            });
        }
    }
    if media.kind == MediaKind::Document && media.caption.is_some() {
        // WhatsApp's clients wrap a document that has a caption.
        message = wa::Message {
            document_with_caption_message: MessageField::some(wa::message::FutureProofMessage {
                message: MessageField::some(message),
            }),
            ..wa::Message::default()
        };
    }
    message
}

/// Says in `whole` where its file lies; `false` when it has none.
pub(in super::super) fn attach(whole: &mut wa::Message, reference: &Reference) -> bool {
    let inner = whole
        .document_with_caption_message
        .as_option_mut()
        .and_then(|wrapper| wrapper.message.as_option_mut());
    let message = match inner {
        Some(inner) => inner,
        None => whole,
    };
    macro_rules! place {
        ($it:expr) => {{
            $it.url = Some(reference.url.clone());
            $it.direct_path = Some(reference.direct_path.clone());
            $it.media_key = Some(reference.media_key.clone());
            $it.file_enc_sha256 = Some(reference.file_enc_sha256.clone());
            $it.media_key_timestamp = Some(reference.media_key_timestamp);
        }};
    }
    let sidecar = || Some(reference.streaming_sidecar.clone()).filter(|bytes| !bytes.is_empty());
    if let Some(it) = message.image_message.as_option_mut() {
        place!(it);
    } else if let Some(it) = message.video_message.as_option_mut() {
        place!(it);
        it.streaming_sidecar = sidecar();
    } else if let Some(it) = message.audio_message.as_option_mut() {
        place!(it);
        it.streaming_sidecar = sidecar();
    } else if let Some(it) = message.document_message.as_option_mut() {
        place!(it);
    } else if let Some(it) = message.sticker_message.as_option_mut() {
        place!(it);
    } else {
        return false;
    }
    true
}

#[cfg(test)]
mod tests {
    use wacore::proto_helpers::MessageExt as _;

    use super::*;
    use crate::domain::media::Sha256;
    use crate::provider::multidevice::convert::media;

    fn file(kind: MediaKind) -> Media {
        let tells = |kinds: &[MediaKind]| kinds.contains(&kind);
        Media {
            kind,
            mime_type: "application/x-test".into(),
            size: 9,
            sha256: Sha256([2; 32]),
            caption: tells(&[MediaKind::Image, MediaKind::Video, MediaKind::Document])
                .then(|| "look".to_owned()),
            file_name: tells(&[MediaKind::Document]).then(|| "a.pdf".to_owned()),
            seconds: tells(&[MediaKind::Video, MediaKind::Audio, MediaKind::Voice]).then_some(4),
            width: tells(&[MediaKind::Image, MediaKind::Video, MediaKind::Sticker]).then_some(640),
            height: tells(&[MediaKind::Image, MediaKind::Video, MediaKind::Sticker]).then_some(480),
            thumbnail: Vec::new(),
            raw: Vec::new(),
        }
    }

    fn reference() -> Reference {
        Reference {
            url: "https://media/v/1".into(),
            direct_path: "/v/1".into(),
            media_key: vec![1; 32],
            file_enc_sha256: vec![3; 32],
            media_key_timestamp: 7,
            streaming_sidecar: vec![9; 10],
        }
    }

    #[test]
    fn what_goes_out_reads_like_what_comes_in() {
        for kind in [
            MediaKind::Image,
            MediaKind::Video,
            MediaKind::Audio,
            MediaKind::Voice,
            MediaKind::Document,
            MediaKind::Sticker,
        ] {
            let sent = file(kind);
            let mut whole = message(&sent);
            assert_eq!(
                media::media(&whole, whole.get_base_message()),
                None,
                "{kind:?}: nobody can fetch it yet"
            );
            assert!(attach(&mut whole, &reference()));
            let mut seen = media::media(&whole, whole.get_base_message()).unwrap();
            assert!(!std::mem::take(&mut seen.raw).is_empty());
            assert_eq!(seen, sent);
        }
    }

    #[test]
    fn text_has_no_file_to_attach() {
        let mut text = wa::Message {
            conversation: Some("hi".into()),
            ..wa::Message::default()
        };
        assert!(!attach(&mut text, &reference()));
    }
}

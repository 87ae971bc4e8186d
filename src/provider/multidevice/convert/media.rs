//! Files in messages.

use waproto::whatsapp as wa;
use whatsapp_rust::download::{DownloadParams, MediaType};

use crate::domain::media::{Media, MediaKind, Sha256};

/// Reads the fields that every kind of file has.
macro_rules! file {
    ($it:expr, $kind:expr, $whole:expr) => {{
        // Without these nobody can fetch or check it: such a message is kept whole instead.
        $it.direct_path.as_ref()?;
        $it.media_key.as_ref()?;
        $it.file_enc_sha256.as_ref()?;
        let digest = $it.file_sha256.as_deref()?.try_into().ok()?;
        Media {
            kind: $kind,
            mime_type: $it.mimetype.clone().unwrap_or_default(),
            size: $it.file_length?,
            sha256: Sha256(digest),
            caption: None,
            file_name: None,
            seconds: None,
            width: None,
            height: None,
            thumbnail: Vec::new(),
            raw: waproto::codec::message_to_vec($whole),
        }
    }};
}

/// The file in `base`, the innermost message of `whole`; `None` when there is none that can be fetched.
pub(super) fn media(whole: &wa::Message, base: &wa::Message) -> Option<Media> {
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(it) = base.image_message.as_option() {
        return Some(Media {
            caption: said(&it.caption),
            width: it.width,
            height: it.height,
            ..file!(it, MediaKind::Image, whole)
        });
    }
    if let Some(it) = base.video_message.as_option() {
        return Some(Media {
            caption: said(&it.caption),
            seconds: it.seconds,
            width: it.width,
            height: it.height,
            ..file!(it, MediaKind::Video, whole)
        });
    }
    if let Some(it) = base.audio_message.as_option() {
        let kind = match it.ptt {
            Some(true) => MediaKind::Voice,
            _ => MediaKind::Audio,
        };
        return Some(Media {
            seconds: it.seconds,
            ..file!(it, kind, whole)
        });
    }
    if let Some(it) = base.document_message.as_option() {
        return Some(Media {
            caption: said(&it.caption),
            file_name: said(&it.file_name),
            ..file!(it, MediaKind::Document, whole)
        });
    }
    let it = base.sticker_message.as_option()?;
    Some(Media {
        width: it.width,
        height: it.height,
        ..file!(it, MediaKind::Sticker, whole)
    })
}

/// What fetches and opens the file in a message's innermost part.
pub(in super::super) fn source(base: &wa::Message) -> Option<DownloadParams> {
    macro_rules! params {
        ($it:expr, $type:expr) => {
            Some(DownloadParams::encrypted(
                $it.direct_path.clone()?,
                $it.media_key.as_deref()?,
                $it.file_sha256.as_deref()?,
                $it.file_enc_sha256.as_deref()?,
                $it.file_length?,
                $type,
            ))
        };
    }
    if let Some(it) = base.image_message.as_option() {
        return params!(it, MediaType::Image);
    }
    if let Some(it) = base.video_message.as_option() {
        return params!(it, MediaType::Video);
    }
    if let Some(it) = base.audio_message.as_option() {
        return params!(it, MediaType::Audio);
    }
    if let Some(it) = base.document_message.as_option() {
        return params!(it, MediaType::Document);
    }
    let it = base.sticker_message.as_option()?;
    params!(it, MediaType::Sticker)
}

#[cfg(test)]
mod tests {
    use waproto::buffa::MessageField;

    use super::*;

    fn voice() -> wa::Message {
        wa::Message {
            audio_message: MessageField::some(wa::message::AudioMessage {
                direct_path: Some("/v/1".into()),
                media_key: Some(vec![1; 32]),
                file_sha256: Some(vec![2; 32]),
                file_enc_sha256: Some(vec![3; 32]),
                file_length: Some(9),
                mimetype: Some("audio/ogg".into()),
                seconds: Some(4),
                ptt: Some(true),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_voice_message_tells_what_it_is_and_keeps_what_opens_it() {
        let message = voice();
        let media = media(&message, &message).unwrap();
        assert_eq!(media.kind, MediaKind::Voice);
        assert_eq!((media.size, media.seconds), (9, Some(4)));
        assert_eq!(media.sha256, Sha256([2; 32]));
        let kept = waproto::codec::message_decode(&media.raw).unwrap();
        assert_eq!(source(&kept).unwrap().direct_path, "/v/1");
    }

    #[test]
    fn what_cannot_be_fetched_or_checked_is_not_media() {
        let spoil: [fn(&mut wa::message::AudioMessage); 4] = [
            |it| it.direct_path = None,
            |it| it.media_key = None,
            |it| it.file_length = None,
            |it| it.file_sha256 = Some(vec![2; 31]),
        ];
        for spoil in spoil {
            let mut audio = voice().audio_message.into_option().unwrap();
            spoil(&mut audio);
            let message = wa::Message {
                audio_message: MessageField::some(audio),
                ..Default::default()
            };
            assert_eq!(media(&message, &message), None);
        }
    }
}

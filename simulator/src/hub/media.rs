//! The server's side of media: tickets, and what the media host may take and give.

use bytes::Bytes;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node};

use super::Hub;
use super::people::PeopleError;
use crate::directory::{AccountId, DeviceKey};
use crate::faults::Fault;
use crate::ledger::Fact;
use crate::media::Refusal;
use crate::phone::{Attachment, MediaPlace, ViolationKind};

/// Seconds a media connection is good for.
const TTL: u64 = 3600;

impl Hub {
    /// Answers `media_conn`: the host and a ticket for this device.
    pub(super) fn media_conn(&mut self, device: DeviceKey) -> Node {
        let until = self.now() + TTL;
        let ticket = self.shelf.issue(device, until);
        let host = NodeBuilder::new("host")
            .attr("hostname", self.shelf.host())
            .attr("type", "primary")
            .children([
                NodeBuilder::new("upload").build(),
                NodeBuilder::new("download").build(),
            ])
            .build();
        NodeBuilder::new("media_conn")
            .attr("auth", ticket)
            .attr("ttl", TTL)
            .attr("auth_ttl", TTL)
            .attr("max_buckets", 12)
            .children([host])
            .build()
    }

    /// Whose upload this is, if it may be one.
    pub(crate) fn may_upload(&mut self, ticket: &str) -> Result<DeviceKey, Refusal> {
        let Some(device) = self.ticket_holder(ticket) else {
            return Err(self.refuse_upload(None, Refusal::new(401, "no such ticket")));
        };
        let ordered = self.faults.take(Some(device), |fault| match fault {
            Fault::RefuseUpload { status } => Some(*status),
            _ => None,
        });
        match ordered {
            Some(status) => {
                Err(self.refuse_upload(Some(device), Refusal::new(status, "ordered fault")))
            }
            None => Ok(device),
        }
    }

    /// Keeps what a device uploaded; its hash was checked.
    pub(crate) fn take_upload(&mut self, by: DeviceKey, kind: &str, blob: Bytes) -> MediaPlace {
        let size = blob.len() as u64;
        let stored = self.shelf.put(kind, blob);
        self.record(Fact::MediaStored {
            kind: kind.to_owned(),
            path: stored.direct_path.clone(),
            size,
            by: self.label(by),
        });
        stored
    }

    /// Sends a file from a person's phone. `to` may be any number with an account.
    pub(crate) fn send_media(
        &mut self,
        from: AccountId,
        to: &Jid,
        file: &Attachment,
    ) -> Result<String, PeopleError> {
        let sent = self.use_phone(from, |phone, net| phone.send_media(to, file, net));
        let (id, node) = sent?;
        self.on_stanza(DeviceKey::phone(from), &node);
        Ok(id)
    }

    /// The file of a message that a person's phone has shown.
    pub(crate) fn open_media(
        &mut self,
        account: AccountId,
        id: &str,
    ) -> Option<Result<Bytes, ViolationKind>> {
        self.use_phone(account, |phone, net| phone.open_media(id, net))
    }

    /// Records a refused upload.
    pub(crate) fn refuse_upload(&mut self, by: Option<DeviceKey>, refusal: Refusal) -> Refusal {
        self.record(Fact::MediaRefused {
            transfer: "upload".to_owned(),
            status: refusal.status,
            reason: refusal.reason.clone(),
            by: by.map(|device| self.label(device)),
        });
        refusal
    }

    /// What a client fetches. As on WhatsApp's hosts the path is enough; a ticket only tells who asks.
    pub(crate) fn serve_download(
        &mut self,
        path: &str,
        ticket: Option<&str>,
    ) -> Result<Bytes, Refusal> {
        let device = ticket.and_then(|ticket| self.ticket_holder(ticket));
        let by = device.map(|device| self.label(device));
        let ordered = self.faults.take(device, |fault| match fault {
            Fault::RefuseDownload { status } => Some(*status),
            _ => None,
        });
        let found = match ordered {
            Some(status) => Err(Refusal::new(status, "ordered fault")),
            None => self
                .shelf
                .get(path)
                .map(|(kind, bytes)| (kind.to_owned(), bytes))
                .ok_or_else(|| Refusal::new(404, "no such blob")),
        };
        match found {
            Ok((kind, bytes)) => {
                self.record(Fact::MediaFetched {
                    kind,
                    path: path.to_owned(),
                    by,
                });
                Ok(bytes)
            }
            Err(refusal) => {
                self.record(Fact::MediaRefused {
                    transfer: "download".to_owned(),
                    status: refusal.status,
                    reason: refusal.reason.clone(),
                    by,
                });
                Err(refusal)
            }
        }
    }

    /// The device a ticket was issued to, while both are good.
    fn ticket_holder(&self, ticket: &str) -> Option<DeviceKey> {
        self.shelf
            .holder(ticket, self.now())
            .filter(|device| self.directory.device(*device).is_some())
    }
}

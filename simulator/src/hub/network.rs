//! The network as a phone sees it.

use bytes::Bytes;
use wacore_binary::Jid;

use super::group::Groups;
use crate::directory::{DeviceKey, Directory};
use crate::media::Shelf;
use crate::phone::{DeviceEntry, MediaPlace, Net, PreKeyBundleParts};
use crate::wire::Addressing;

/// Look-ups for one phone, and a note of the prekeys it took.
pub(super) struct View<'a> {
    pub(super) directory: &'a mut Directory,
    pub(super) shelf: &'a mut Shelf,
    pub(super) groups: &'a Groups,
    pub(super) now: u64,
    /// Whose prekeys were taken, and which.
    pub(super) taken: Vec<(DeviceKey, Option<u32>)>,
    /// Blobs put on the media host: media type, path, length.
    pub(super) stored: Vec<(String, String, u64)>,
}

impl Net for View<'_> {
    fn devices(&mut self, user: &Jid) -> Vec<DeviceEntry> {
        self.directory
            .resolve(user)
            .map(|account| self.directory.entries(account))
            .unwrap_or_default()
    }

    fn take_bundle(&mut self, device: &Jid) -> Option<PreKeyBundleParts> {
        let key = self.directory.resolve_device(device)?;
        let bundle = self.directory.take_bundle(key)?;
        self.taken.push((key, bundle.one_time.map(|k| k.id)));
        Some(bundle)
    }

    fn identity(&self, device: &Jid) -> Option<[u8; 32]> {
        let key = self.directory.resolve_device(device)?;
        self.directory.device(key).map(|d| *d.keys.identity())
    }

    fn lid_of(&self, pn: &Jid) -> Option<Jid> {
        self.user(pn, Addressing::Lid)
    }

    fn pn_of(&self, lid: &Jid) -> Option<Jid> {
        self.user(lid, Addressing::Pn)
    }

    fn store_media(&mut self, kind: &str, blob: Bytes) -> MediaPlace {
        let size = blob.len() as u64;
        let place = self.shelf.put(kind, blob);
        self.stored
            .push((kind.to_owned(), place.direct_path.clone(), size));
        place
    }

    fn media(&self, direct_path: &str) -> Option<Bytes> {
        self.shelf.get(direct_path).map(|(_, blob)| blob)
    }

    fn members(&self, group: &Jid) -> Vec<Jid> {
        self.groups.members(group, self.directory)
    }

    fn subject(&self, group: &Jid) -> Option<String> {
        self.groups.subject(group)
    }

    fn now(&self) -> u64 {
        self.now
    }
}

impl View<'_> {
    fn user(&self, jid: &Jid, addressing: Addressing) -> Option<Jid> {
        let account = self.directory.resolve(jid)?;
        Some(self.directory.account(account).jid(addressing))
    }
}

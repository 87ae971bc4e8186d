//! Linking a new device by a code that is typed on the phone.
//!
//! ```text
//! client                       server                        phone
//!   companion_hello ───────────▶  reference                    "somebody wants to link": asks for the code
//!                 ◀─────────────  primary_hello ◀───────────── the person types it
//!   companion_finish ──────────▶ ───────────────────────────▶ opens, or the code was wrong
//!                 ◀─────────────  pair-success ◀────────────── signs the client in
//! ```
//!
//! The server never sees the code: it routes by phone number, and the last client that asked for a
//! number is the one its phone talks to. After a wrong code the client hears nothing; the person may
//! type again, three times in all, as clients count too. A code that is spent or too old is taken
//! back (`refresh_code`) when somebody still tries it.

use rand::Rng as _;
use wacore::pair_code::PairCodeUtils;
use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;

use super::Hub;
use super::connection::ConnectionId;
use crate::directory::{AccountId, DeviceKey};
use crate::faults::Fault;
use crate::ledger::Fact;
use crate::phone::{CodeEntry, KeyBundle, PrimaryHello, WRAPPED};
use crate::wire;

pub(super) const TAG: &str = "link_code_companion_reg";
const REFERENCE: &str = "link_code_pairing_ref";

/// A client that shows a code.
pub(super) struct CodeRequest {
    connection: ConnectionId,
    reference: Vec<u8>,
    wrapped_ephemeral: [u8; WRAPPED],
    /// Unix seconds.
    expires: u64,
    /// Codes typed so far.
    attempts: u32,
    /// What the phone said last; the client's answer belongs to it.
    hello: Option<PrimaryHello>,
}

/// What a person who is about to type a code has before them.
pub(crate) struct CodeChallenge {
    pub(crate) entry: CodeEntry,
    pub(crate) companion: [u8; WRAPPED],
    reference: Vec<u8>,
}

/// Why a typed code was not passed on. Whether a code was *right* is known later, from the client's
/// answer: see [`Fact::CodeAccepted`] and [`Fact::CodeRefused`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeFailure {
    /// Codes are eight characters of a certain alphabet.
    #[error("code: expected 8 characters of 1-9 and A-Z without I, O and U")]
    Malformed,
    /// Nobody waits.
    #[error("code: no connected client has asked to be linked to this number")]
    NotRequested,
    /// The code was valid once; the client was told to show another.
    #[error("code: it has expired; type the one the client shows now")]
    Expired,
    /// The account has as many companions as it may have.
    #[error("the account has {0} linked devices, the maximum; unlink one first")]
    TooManyDevices(usize),
}

/// Eight characters, as people type them: any case, with or without a hyphen.
pub(crate) fn typed(code: &str) -> Option<String> {
    let code: String = code
        .chars()
        .filter(|c| !matches!(c, ' ' | '-'))
        .map(|c| c.to_ascii_uppercase())
        .collect();
    PairCodeUtils::validate_code(&code).then_some(code)
}

/// The `text` that WhatsApp pairs with an error of this request.
fn error_text(code: u16) -> &'static str {
    match code {
        400 => "bad-request",
        403 => "forbidden",
        429 => "rate-overlimit",
        452 => "feature-not-available",
        _ => "internal-server-error",
    }
}

const BAD_REQUEST: u16 = 400;

/// `companion_hello`, checked.
struct Hello {
    account: AccountId,
    wrapped_ephemeral: [u8; WRAPPED],
}

impl Hub {
    /// `<link_code_companion_reg>` from a client that is not linked yet.
    pub(super) fn on_link_code(&mut self, id: ConnectionId, stanza: &str, node: &Node) {
        let Some(request) = node.get_optional_child(TAG) else {
            return;
        };
        let answer = match wire::attr(request, "stage").as_deref() {
            Some("companion_hello") => self.on_companion_hello(id, request),
            Some("companion_finish") => return self.on_companion_finish(id, stanza, request),
            other => Err((BAD_REQUEST, format!("unknown stage {other:?}"))),
        };
        match answer {
            Ok(child) => self.transmit(id, wire::iq_result(stanza, [child])),
            Err((code, reason)) => self.refuse_code(id, stanza, code, reason),
        }
    }

    fn refuse_code(&mut self, id: ConnectionId, stanza: &str, code: u16, reason: String) {
        self.record(Fact::CodeRefused {
            connection: id.0,
            reason,
        });
        self.transmit(id, wire::iq_error(stanza, code, error_text(code)));
    }

    fn on_companion_hello(
        &mut self,
        id: ConnectionId,
        request: &Node,
    ) -> Result<Node, (u16, String)> {
        let ordered = self.faults.take(None, |fault| match fault {
            Fault::RefuseCode { error } => Some(*error),
            _ => None,
        });
        if let Some(error) = ordered {
            return Err((error, "ordered".to_owned()));
        }
        let hello = self
            .read_companion_hello(id, request)
            .map_err(|reason| (BAD_REQUEST, reason))?;
        let mut random = [0; 24];
        self.rng.fill_bytes(&mut random);
        let reference = [b"3@".as_slice(), &random].concat();
        self.forget_code(id);
        let expires = self.now() + PairCodeUtils::code_validity().as_secs();
        self.codes.insert(
            hello.account,
            CodeRequest {
                connection: id,
                reference: reference.clone(),
                wrapped_ephemeral: hello.wrapped_ephemeral,
                expires,
                attempts: 0,
                hello: None,
            },
        );
        let fact = Fact::CodeRequested {
            connection: id.0,
            phone: self.directory.account(hello.account).pn.clone(),
        };
        self.record(fact);
        Ok(NodeBuilder::new(TAG)
            .attr("stage", "companion_hello")
            .children([wire::leaf(REFERENCE, reference)])
            .build())
    }

    fn read_companion_hello(&self, id: ConnectionId, request: &Node) -> Result<Hello, String> {
        let account = wire::jid_attr(request, "jid")
            .and_then(|jid| self.directory.resolve(&jid))
            .ok_or("no account with the number in `jid`")?;
        let noise = wire::child_array(request, "companion_server_auth_key_pub")
            .ok_or("companion_server_auth_key_pub is not 32 bytes")?;
        if self.applicant(id).map(|applicant| applicant.noise_public) != Some(noise) {
            return Err("companion_server_auth_key_pub is not this connection's key".to_owned());
        }
        let display = wire::child_bytes(request, "companion_platform_display").unwrap_or_default();
        // `Browser (System)`; anything else the server turns away.
        if !display.contains(&b'(') || !display.ends_with(b")") {
            return Err("companion_platform_display is not `Browser (System)`".to_owned());
        }
        for required in ["companion_platform_id", "link_code_pairing_nonce"] {
            if wire::child_bytes(request, required).is_none_or(<[u8]>::is_empty) {
                return Err(format!("{required} is missing"));
            }
        }
        Ok(Hello {
            account,
            wrapped_ephemeral: wire::child_array(
                request,
                "link_code_pairing_wrapped_companion_ephemeral_pub",
            )
            .ok_or("link_code_pairing_wrapped_companion_ephemeral_pub is not 80 bytes")?,
        })
    }

    /// A person opens *Link with phone number* on their phone.
    pub(crate) fn challenge(&mut self, account: AccountId) -> Result<CodeChallenge, CodeFailure> {
        let now = self.now();
        let request = self.codes.get(&account).ok_or(CodeFailure::NotRequested)?;
        if request.expires <= now {
            self.void_code(account);
            return Err(CodeFailure::Expired);
        }
        let (companion, reference) = (request.wrapped_ephemeral, request.reference.clone());
        if self.directory.account(account).companions() >= self.config.max_companions {
            return Err(CodeFailure::TooManyDevices(self.config.max_companions));
        }
        Ok(CodeChallenge {
            entry: self.people[account.0].phone.type_code(),
            companion,
            reference,
        })
    }

    /// The phone says hello to the client whose code was typed.
    pub(crate) fn primary_hello(
        &mut self,
        account: AccountId,
        reference: &[u8],
        hello: PrimaryHello,
    ) -> Result<(), CodeFailure> {
        let request = self
            .codes
            .get_mut(&account)
            .filter(|request| request.reference == reference)
            .ok_or(CodeFailure::NotRequested)?;
        let connection = request.connection;
        let children = [
            wire::leaf(REFERENCE, request.reference.clone()),
            wire::leaf("primary_identity_pub", hello.identity),
            wire::leaf(
                "link_code_pairing_wrapped_primary_ephemeral_pub",
                hello.wrapped_ephemeral,
            ),
        ];
        request.attempts += 1;
        request.hello = Some(hello);
        let fact = Fact::CodeEntered {
            connection: connection.0,
            phone: self.directory.account(account).pn.clone(),
        };
        self.record(fact);
        let child = NodeBuilder::new(TAG)
            .attr("stage", "primary_hello")
            .children(children)
            .build();
        self.notify_code(connection, child);
        Ok(())
    }

    fn on_companion_finish(&mut self, id: ConnectionId, stanza: &str, request: &Node) {
        let reference = wire::child_bytes(request, REFERENCE).unwrap_or_default();
        let account = wire::jid_attr(request, "jid").and_then(|jid| self.directory.resolve(&jid));
        let hello = account
            .and_then(|account| self.codes.get_mut(&account))
            .filter(|code| code.connection == id && code.reference == reference)
            .and_then(|code| code.hello.take());
        let (Some(account), Some(hello)) = (account, hello) else {
            let reason = "companion_finish without a phone that said hello".to_owned();
            return self.refuse_code(id, stanza, BAD_REQUEST, reason);
        };
        let identity = wire::child_array(request, "companion_identity_public");
        let registered = self.applicant(id).map(|applicant| applicant.identity);
        let Some(identity) = identity.filter(|key| Some(*key) == registered) else {
            let reason = "companion_identity_public is not the registered identity".to_owned();
            return self.refuse_code(id, stanza, BAD_REQUEST, reason);
        };
        // The server passes the bundle on without being able to read it.
        self.transmit(id, wire::iq_result(stanza, []));
        let bundle = KeyBundle {
            wrapped: wire::child_bytes(request, "link_code_pairing_wrapped_key_bundle")
                .unwrap_or_default(),
            companion_identity: &identity,
        };
        self.finish_on_phone(id, account, &hello, &bundle);
    }

    fn finish_on_phone(
        &mut self,
        id: ConnectionId,
        account: AccountId,
        hello: &PrimaryHello,
        bundle: &KeyBundle<'_>,
    ) {
        let now = self.now();
        let number = self.directory.account_mut(account).reserve_device();
        let device = DeviceKey {
            account,
            device: number,
        };
        let phone = &mut self.people[account.0].phone;
        match phone.finish_code(hello, bundle, number, now) {
            Ok(_) if self.demands_passkey(account) => {
                self.people[account.0].phone.unlink(number);
                self.forget_code(id);
                self.demand_passkey(id, account);
            }
            Ok(link) => {
                let fact = Fact::CodeAccepted {
                    connection: id.0,
                    device: self.label(device),
                };
                self.record(fact);
                self.offer(id, device, link);
            }
            Err(error) => {
                self.record(Fact::CodeRefused {
                    connection: id.0,
                    reason: error.to_string(),
                });
                let spent = self.codes.get(&account).is_some_and(|code| {
                    code.attempts >= PairCodeUtils::max_primary_hello_attempts()
                });
                if spent {
                    self.void_code(account);
                }
            }
        }
    }

    /// Tells the client to show another code.
    fn void_code(&mut self, account: AccountId) {
        let Some(request) = self.codes.remove(&account) else {
            return;
        };
        self.record(Fact::CodeVoided {
            connection: request.connection.0,
        });
        let child = NodeBuilder::new(TAG)
            .attr("stage", "refresh_code")
            .attr("force_manual_refresh", "false")
            .children([wire::leaf(REFERENCE, request.reference)])
            .build();
        self.notify_code(request.connection, child);
    }

    fn notify_code(&mut self, id: ConnectionId, child: Node) {
        let node = NodeBuilder::new("notification")
            .attr("from", wire::server())
            .attr("type", TAG)
            .attr("id", self.stanza_id())
            .attr("t", self.now())
            .children([child])
            .build();
        self.transmit(id, node);
    }

    /// Whatever code this client showed is void.
    pub(super) fn forget_code(&mut self, id: ConnectionId) {
        self.codes.retain(|_, request| request.connection != id);
    }
}

impl CodeChallenge {
    /// The phone's hello for this code, with the reference it belongs to.
    pub(crate) fn enter(self, code: &str) -> (Vec<u8>, PrimaryHello) {
        (self.reference, self.entry.enter(code, &self.companion))
    }
}

#[cfg(test)]
mod tests {
    use super::typed;

    #[test]
    fn codes_are_read_as_people_type_them() {
        assert_eq!(typed("abcd-1234").as_deref(), Some("ABCD1234"));
        assert_eq!(typed(" ABCD 1234 ").as_deref(), Some("ABCD1234"));
        for wrong in ["", "ABCD123", "ABCD12345", "ABCD123O", "ABCDÖ123"] {
            assert_eq!(typed(wrong), None, "{wrong}");
        }
    }
}

//! Evidence: a DSSE envelope (ed25519) over a [`Statement`], signed by the host that judged.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::keys::{KeyId, KeyRing, SecretKey};
use super::statement::{KeyJoin, Statement};
use super::{Digest, canonical, clock};
use crate::error::{Error, Result};

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// A signed [`Statement`]. The bytes that were signed are kept: a signature is over bytes.
#[derive(Clone, Debug)]
pub struct Evidence {
    payload: Vec<u8>,
    statement: Statement,
    signatures: Vec<Signature>,
    digest: Digest,
}

#[derive(Clone, Debug)]
struct Signature {
    key: KeyId,
    bytes: [u8; 64],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<WireSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSignature {
    keyid: KeyId,
    sig: String,
}

impl Evidence {
    /// Signs `statement` as the host that made it.
    pub fn sign(statement: Statement, key: &SecretKey) -> Result<Evidence> {
        let payload = statement.to_bytes()?;
        let signature = Signature { key: key.public().id(), bytes: key.sign(&pre_authentication(&payload)) };
        Evidence { payload, statement, signatures: vec![signature], digest: Digest::ZERO }.with_digest()
    }

    /// `key` asks to join a ledger.
    pub fn join(key: &SecretKey) -> Result<Evidence> {
        let join = KeyJoin { key: key.public().clone(), time: clock::now() };
        Evidence::sign(Statement::Key(Box::new(join)), key)
    }

    /// The same with one more signature: of an old key that welcomes a new one, or of the successor in a rotation.
    pub fn welcomed_by(mut self, key: &SecretKey) -> Result<Evidence> {
        self.signatures.push(Signature { key: key.public().id(), bytes: key.sign(&pre_authentication(&self.payload)) });
        self.with_digest()
    }

    fn with_digest(mut self) -> Result<Evidence> {
        self.digest = Digest::of(&canonical::write(&self.to_value()?)?);
        Ok(self)
    }

    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The key that made the first signature: the judging host's, the joining key itself, or the one that is rotated.
    pub fn signer(&self) -> KeyId {
        self.signatures[0].key
    }

    /// SHA-256 of the canonical envelope: what this evidence is called wherever it goes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn to_value(&self) -> Result<Value> {
        let wire = Wire {
            payload: STANDARD.encode(&self.payload),
            payload_type: PAYLOAD_TYPE.into(),
            signatures: self
                .signatures
                .iter()
                .map(|s| WireSignature { keyid: s.key, sig: STANDARD.encode(s.bytes) })
                .collect(),
        };
        serde_json::to_value(wire).map_err(|e| Error::internal(format!("evidence has no JSON form: {e}")))
    }

    /// One line of an evidence file.
    pub fn to_line(&self) -> Result<Vec<u8>> {
        let mut line = canonical::write(&self.to_value()?)?;
        line.push(b'\n');
        Ok(line)
    }

    /// Reads an envelope; signatures are not looked at yet. Another spelling of the same is refused.
    pub fn from_value(value: &Value) -> Result<Evidence, String> {
        let wire: Wire = Wire::deserialize(value).map_err(|e| format!("no envelope: {e}"))?;
        if wire.payload_type != PAYLOAD_TYPE {
            return Err(format!("the payload type `{}` is not `{PAYLOAD_TYPE}`", wire.payload_type));
        }
        let payload = STANDARD.decode(&wire.payload).map_err(|e| format!("the payload is no base64: {e}"))?;
        let statement = Statement::from_bytes(&payload).map_err(|e| format!("the statement is malformed: {e}"))?;
        let mut signatures = Vec::new();
        for s in &wire.signatures {
            let bytes = STANDARD.decode(&s.sig).ok().and_then(|b| b.try_into().ok());
            signatures.push(Signature { key: s.keyid, bytes: bytes.ok_or("a signature is no base64 of 64 bytes")? });
        }
        let right = match statement {
            Statement::Key(_) => 1..=2,
            Statement::Rotation(_) => 2..=2,
            _ => 1..=1,
        };
        if !right.contains(&signatures.len()) {
            return Err(format!("{} signatures on a {}", signatures.len(), statement.kind()));
        }
        let evidence = Evidence { payload, statement, signatures, digest: Digest::ZERO }.with_digest();
        let evidence = evidence.map_err(|e| e.to_string())?;
        match evidence.to_value() {
            Ok(again) if again == *value => Ok(evidence),
            _ => Err("the envelope is written in another way than assay writes it".into()),
        }
    }

    /// Checks every signature under `known`; a joining key also under itself, which must have signed first. A rotation is
    /// the old key's, which must be known, then the new one's.
    pub fn verify(&self, known: &KeyRing) -> Result<(), String> {
        let message = pre_authentication(&self.payload);
        let joining = self.statement.joining();
        let signed: Vec<KeyId> = self.signatures.iter().map(|s| s.key).collect();
        match &self.statement {
            Statement::Key(join) if join.key.id() != self.signer() => {
                return Err("a key row must be signed by the key that joins".into());
            }
            Statement::Rotation(r) if signed != [r.from.id(), r.to.id()] => {
                return Err("a rotation must be signed by the old key, then by the new one".into());
            }
            _ => {}
        }
        for signature in &self.signatures {
            let key = joining.filter(|key| key.id() == signature.key).or_else(|| known.get(&signature.key));
            let Some(key) = key else {
                return Err(format!("the evidence is signed by key {}, which never joined", signature.key.short()));
            };
            if !key.verifies(&message, &signature.bytes) {
                return Err(format!("the evidence's signature by {} ({}) is wrong", key.name(), signature.key.short()));
            }
        }
        Ok(())
    }
}

/// DSSE's pre-authentication encoding of the payload.
fn pre_authentication(payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

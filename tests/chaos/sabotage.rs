//! Sabotage: what a broken daemon would do, done on its two ways, to its caller and to its server, so that the
//! daemon itself needs no door for it. Each must be told by a figure of its own, or the harness is blind for it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use leasehold::provider::proto::csi_driver_provider_server::{
    CsiDriverProvider, CsiDriverProviderServer,
};
use leasehold::provider::proto::{MountRequest, MountResponse, VersionRequest, VersionResponse};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::report::Violation;
use crate::support::driver::Driver;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Every Mount fails.
    MountsNothing,
    /// Every Mount succeeds, without files.
    AnswersNoFiles,
    /// Renewals are answered by nobody, with success.
    RenewsNothing,
    /// Revocations likewise.
    RevokesNothing,
    /// A token is revoked while its volume is mounted.
    RevokesTooEarly,
    /// The journal is gone at a restart.
    ForgetsItsJournal,
    /// A volume gets the files of another one.
    MixesVolumes,
    /// A volume gets the static secret of its first answer for ever.
    AnswersAnOldSecret,
    /// Each poll costs a login.
    LogsInAtEachPoll,
    /// Each poll costs a credential.
    ReissuesAtEachPoll,
}

impl Sabotage {
    /// The figure that must tell it.
    pub fn figure(self) -> Violation {
        match self {
            Self::MountsNothing => Violation::NeverMounted,
            Self::AnswersNoFiles => Violation::WrongFile,
            Self::RenewsNothing => Violation::LateRenewal,
            Self::RevokesNothing => Violation::LateRevocation,
            Self::RevokesTooEarly => Violation::RevokedEarly,
            Self::ForgetsItsJournal => Violation::OrphanedLease,
            Self::MixesVolumes => Violation::MixedFiles,
            Self::AnswersAnOldSecret => Violation::StaleFile,
            Self::LogsInAtEachPoll => Violation::NeedlessLogin,
            Self::ReissuesAtEachPoll => Violation::NeedlessCredential,
        }
    }
}

/// A provider's socket before the daemon's.
pub struct Front {
    serving: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Provider {
    daemon: Driver,
    sabotage: Option<Sabotage>,
    /// The last answer, and the volume it was for.
    last: Mutex<Option<(String, MountResponse)>>,
    /// The first value of each volume's static secret.
    first: Mutex<HashMap<String, bytes::Bytes>>,
}

impl Front {
    /// Listens at `socket`, and passes calls on to the daemon at `daemon`, as far as the saboteur wants.
    pub fn start(socket: &Path, daemon: &Path, sabotage: Option<Sabotage>) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let provider = Provider {
            daemon: Driver::dial(daemon),
            sabotage,
            last: Mutex::default(),
            first: Mutex::default(),
        };
        let serving = tokio::spawn(async move {
            let served = tonic::transport::Server::builder()
                .add_service(CsiDriverProviderServer::new(provider))
                .serve_with_incoming(UnixListenerStream::new(listener));
            served.await.unwrap();
        });
        Self { serving }
    }
}

#[tonic::async_trait]
impl CsiDriverProvider for Provider {
    async fn version(
        &self,
        _: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        Err(Status::unimplemented("nobody asks here"))
    }

    async fn mount(
        &self,
        request: Request<MountRequest>,
    ) -> Result<Response<MountResponse>, Status> {
        let request = request.into_inner();
        let volume = request.target_path.clone();
        if self.sabotage == Some(Sabotage::MountsNothing) {
            return Err(Status::internal("no"));
        }
        let mut answer = self.daemon.call(request).await?;
        match self.sabotage {
            Some(Sabotage::AnswersNoFiles) => answer.files.clear(),
            Some(Sabotage::MixesVolumes) => {
                let mut last = self.last.lock().unwrap();
                let other = last.replace((volume.clone(), answer.clone()));
                let names = |answer: &MountResponse| -> Vec<String> {
                    answer.files.iter().map(|file| file.path.clone()).collect()
                };
                if let Some((whose, other)) = other
                    && whose != volume
                    && names(&other) == names(&answer)
                {
                    answer = other;
                }
            }
            Some(Sabotage::AnswersAnOldSecret) => {
                let mut first = self.first.lock().unwrap();
                for file in answer.files.iter_mut().filter(|file| file.path == "value") {
                    let first = first.entry(volume.clone()).or_insert(file.contents.clone());
                    file.contents = first.clone();
                }
            }
            _ => {}
        }
        Ok(Response::new(answer))
    }
}

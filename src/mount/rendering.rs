//! The files of one Mount, made reply by reply as they come: what is wrong with one reply is known before more
//! credentials are issued, and a static reply's body takes no memory once its files are made.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::MountError;
use super::is_static;
use crate::blocking::{self, BlockingPool};
use crate::grant::Grant;
use crate::memory::{MountMemory, Reservation};
use crate::render::{self, File, RenderError, Total};
use crate::spec::{MountSpec, Object, Request};
use crate::vault::Read;

/// The files as far as they are made.
pub struct Rendering {
    spec: Arc<MountSpec>,
    /// The places of each request's objects in the class.
    objects: Arc<HashMap<Request, Vec<usize>>>,
    memory: MountMemory,
    processor: BlockingPool,
    done: HashMap<Request, Done>,
    /// What the bodies take that the registry gets.
    bodies: Vec<Reservation>,
}

/// One reply's files.
struct Done {
    grant: Arc<Grant>,
    files: Vec<(usize, File)>,
    memory: Reservation,
}

impl Rendering {
    /// Nothing is made yet.
    pub fn new(spec: &Arc<MountSpec>, memory: &MountMemory, processor: &BlockingPool) -> Self {
        let mut objects: HashMap<Request, Vec<usize>> = HashMap::new();
        for (index, object) in spec.objects.iter().enumerate() {
            match objects.get_mut(&object.request) {
                Some(indices) => indices.push(index),
                None => drop(objects.insert(object.request.clone(), vec![index])),
            }
        }
        Self {
            spec: Arc::clone(spec),
            objects: Arc::new(objects),
            memory: memory.clone(),
            processor: processor.clone(),
            done: HashMap::new(),
            bodies: Vec::new(),
        }
    }

    /// Makes the files of a reply that has come just now. Also where that fails, the grant is there to be handed
    /// over; a static one comes back without its body.
    pub async fn add(&mut self, read: Read) -> (Arc<Grant>, Result<(), MountError>) {
        let Read { grant, mut memory } = read;
        let grant = Arc::new(grant);
        let made = self.made(&grant).await;
        let kept = if is_static(&grant) {
            let stripped = Arc::new(grant.without_body());
            drop((grant, memory));
            stripped
        } else {
            memory.end_turn();
            self.bodies.push(memory);
            grant
        };
        let made = made.map(|(files, memory)| self.note(&kept, files, memory));
        (kept, made)
    }

    /// Makes the files of replies that the registry has had.
    ///
    /// # Errors
    /// No file can be made of one of them.
    pub async fn add_known(
        &mut self,
        known: &HashMap<Request, Arc<Grant>>,
    ) -> Result<(), MountError> {
        for grant in known.values() {
            if !self.has(grant) {
                let (files, memory) = self.made(grant).await?;
                self.note(grant, files, memory);
            }
        }
        Ok(())
    }

    /// All files, in the objects' order, and the memory that they and the answer take.
    ///
    /// # Errors
    /// A reply is not there: our own mistake.
    pub fn finish(
        mut self,
        replies: &HashMap<Request, Arc<Grant>>,
    ) -> Result<(Vec<File>, Vec<Reservation>), MountError> {
        let (mut files, mut memory) = (Vec::new(), Vec::new());
        for (request, grant) in replies {
            if self.has(grant)
                && let Some(done) = self.done.remove(request)
            {
                files.extend(done.files);
                memory.push(done.memory);
            }
        }
        files.sort_unstable_by_key(|(index, _)| *index);
        let objects = self.spec.objects.iter().enumerate();
        let mut made = files.iter().map(|(index, _)| *index);
        for (index, object) in objects {
            if made.next() != Some(index) {
                let object = object.name.clone();
                return Err(RenderError::NoReply { object }.into());
            }
        }
        Ok((files.into_iter().map(|(_, file)| file).collect(), memory))
    }

    fn has(&self, grant: &Arc<Grant>) -> bool {
        let done = self.done.get(&grant.request);
        done.is_some_and(|done| Arc::ptr_eq(&done.grant, grant))
    }

    fn note(&mut self, grant: &Arc<Grant>, files: Vec<(usize, File)>, memory: Reservation) {
        let done = Done {
            grant: Arc::clone(grant),
            files,
            memory,
        };
        self.done.insert(grant.request.clone(), done);
    }

    async fn made(
        &self,
        grant: &Arc<Grant>,
    ) -> Result<(Vec<(usize, File)>, Reservation), MountError> {
        let request = &grant.request;
        let others = self.done.iter().filter(|(other, _)| *other != request);
        let files = others.flat_map(|(_, done)| &done.files);
        let total = Total::of(files.map(|(_, file)| file))?;
        let measured = self.work(grant, move |objects, grant| {
            let mut total = total;
            render::measure(objects, grant, &mut total)
        });
        let measured = measured.await??;
        let mut memory = self.memory.reservation();
        // The files, and the message that is made of them.
        let size = measured.size.saturating_mul(2);
        let grown = memory.grow(size.saturating_add(measured.extra)).await;
        grown.map_err(|source| MountError::Memory {
            object: self.first(request),
            source,
        })?;
        let extra = measured.extra;
        let made = self.work(grant, move |objects, grant| {
            render::made(objects, grant, &measured)
        });
        let files = made.await??;
        memory.shrink(extra);
        let indices = self.objects.get(request).into_iter().flatten().copied();
        Ok((indices.zip(files).collect(), memory))
    }

    /// Does something with a reply and its objects, off the runtime's threads where it is large.
    async fn work<T: Send + 'static>(
        &self,
        grant: &Arc<Grant>,
        work: impl FnOnce(&[&Object], &Grant) -> T + Send + 'static,
    ) -> Result<T, MountError> {
        let (spec, objects, grant) = (
            Arc::clone(&self.spec),
            Arc::clone(&self.objects),
            Arc::clone(grant),
        );
        let indices = self.objects.get(&grant.request).map_or(0, Vec::len);
        let is_large = grant.body.expose().len().saturating_mul(indices.max(1)) > blocking::LARGE;
        let work = move || {
            let indices = objects.get(&grant.request).into_iter().flatten();
            let objects: Vec<&Object> = indices.filter_map(|at| spec.objects.get(*at)).collect();
            work(&objects, &grant)
        };
        match is_large {
            true => Ok(self.processor.run(&self.spec.pod.namespace, work).await?),
            false => Ok(work()),
        }
    }

    fn first(&self, request: &Request) -> String {
        let first = self
            .objects
            .get(request)
            .and_then(|indices| indices.first());
        let first = first.and_then(|index| self.spec.objects.get(*index));
        first.map_or_else(String::new, |object| object.name.clone())
    }
}

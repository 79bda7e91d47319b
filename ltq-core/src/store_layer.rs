//! Stores that stand around another one and change only some of what it does.

use std::pin::Pin;

use bytes::Bytes;

use crate::{
    Bounds, Committed, Durability, LogInfo, LogName, Offset, ReadLimits, RecordBatch, Store,
    StoreError, StoreStats, Timestamp, WriteBatch,
};

/// What a method of a [`Store`] that can wait returns.
type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A store around another one: whatever it does not do itself, the other does.
///
/// Whoever implements this has a [`Store`], by naming the store inside and writing the methods that
/// are to differ; each has the contract of the method of that name there. What passes through
/// costs nothing. The methods that wait are written as `async fn` under
/// [`async_trait`](https://docs.rs/async-trait). Name this trait by its path, as below, rather than
/// import it: where both traits are in scope a call on such a store does not say which it means.
///
/// ```
/// use async_trait::async_trait;
/// use ltq_core::{Committed, Durability, Store, StoreError, WriteBatch};
///
/// /// Syncs every commit, whatever it asks for.
/// struct Strict<S>(S);
///
/// #[async_trait]
/// impl<S: Store> ltq_core::StoreLayer for Strict<S> {
///     type Inner = S;
///
///     fn inner(&self) -> &S {
///         &self.0
///     }
///
///     async fn commit(&self, batch: WriteBatch, _: Durability) -> Result<Committed, StoreError> {
///         self.0.commit(batch, Durability::Disk).await
///     }
/// }
///
/// fn is_a_store(_: impl Store) {}
/// # fn any<S: Store>(store: S) {
/// is_a_store(Strict(store));
/// # }
/// ```
pub trait StoreLayer: Send + Sync + 'static {
    /// The store inside.
    type Inner: Store + ?Sized;

    /// The store inside.
    fn inner(&self) -> &Self::Inner;

    /// As [`Store::durability_max`].
    fn durability_max(&self) -> Durability {
        self.inner().durability_max()
    }

    /// As [`Store::commit`].
    ///
    /// # Errors
    /// Those of [`Store::commit`].
    fn commit<'life0, 'async_trait>(
        &'life0 self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Pending<'async_trait, Committed>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.inner().commit(batch, durability)
    }

    /// As [`Store::try_read`].
    fn try_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>> {
        self.inner().try_read(log, from, limits)
    }

    /// As [`Store::read`].
    ///
    /// # Errors
    /// Those of [`Store::read`].
    fn read<'life0, 'life1, 'async_trait>(
        &'life0 self,
        log: &'life1 LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Pending<'async_trait, Vec<RecordBatch>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        self.inner().read(log, from, limits)
    }

    /// As [`Store::bounds`].
    ///
    /// # Errors
    /// Those of [`Store::bounds`].
    fn bounds(&self, log: &LogName) -> Result<Bounds, StoreError> {
        self.inner().bounds(log)
    }

    /// As [`Store::offset_at`].
    ///
    /// # Errors
    /// Those of [`Store::offset_at`].
    fn offset_at<'life0, 'life1, 'async_trait>(
        &'life0 self,
        log: &'life1 LogName,
        time: Timestamp,
    ) -> Pending<'async_trait, Offset>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        self.inner().offset_at(log, time)
    }

    /// As [`Store::logs`].
    ///
    /// # Errors
    /// Those of [`Store::logs`].
    fn logs(&self) -> Result<Vec<LogInfo>, StoreError> {
        self.inner().logs()
    }

    /// As [`Store::value`].
    ///
    /// # Errors
    /// Those of [`Store::value`].
    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner().value(key)
    }

    /// As [`Store::values`].
    ///
    /// # Errors
    /// Those of [`Store::values`].
    fn values(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.inner().values(prefix)
    }

    /// As [`Store::stats`].
    fn stats(&self) -> StoreStats {
        self.inner().stats()
    }

    /// As [`Store::health`].
    ///
    /// # Errors
    /// Those of [`Store::health`].
    fn health(&self) -> Result<(), StoreError> {
        self.inner().health()
    }

    /// As [`Store::close`].
    ///
    /// # Errors
    /// Those of [`Store::close`].
    fn close<'life0, 'async_trait>(&'life0 self) -> Pending<'async_trait, ()>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.inner().close()
    }
}

impl<L: StoreLayer> Store for L {
    fn durability_max(&self) -> Durability {
        StoreLayer::durability_max(self)
    }

    fn commit<'life0, 'async_trait>(
        &'life0 self,
        batch: WriteBatch,
        durability: Durability,
    ) -> Pending<'async_trait, Committed>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        StoreLayer::commit(self, batch, durability)
    }

    fn try_read(
        &self,
        log: &LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Option<Result<Vec<RecordBatch>, StoreError>> {
        StoreLayer::try_read(self, log, from, limits)
    }

    fn read<'life0, 'life1, 'async_trait>(
        &'life0 self,
        log: &'life1 LogName,
        from: Offset,
        limits: ReadLimits,
    ) -> Pending<'async_trait, Vec<RecordBatch>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        StoreLayer::read(self, log, from, limits)
    }

    fn bounds(&self, log: &LogName) -> Result<Bounds, StoreError> {
        StoreLayer::bounds(self, log)
    }

    fn offset_at<'life0, 'life1, 'async_trait>(
        &'life0 self,
        log: &'life1 LogName,
        time: Timestamp,
    ) -> Pending<'async_trait, Offset>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        StoreLayer::offset_at(self, log, time)
    }

    fn logs(&self) -> Result<Vec<LogInfo>, StoreError> {
        StoreLayer::logs(self)
    }

    fn value(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        StoreLayer::value(self, key)
    }

    fn values(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        StoreLayer::values(self, prefix)
    }

    fn stats(&self) -> StoreStats {
        StoreLayer::stats(self)
    }

    fn health(&self) -> Result<(), StoreError> {
        StoreLayer::health(self)
    }

    fn close<'life0, 'async_trait>(&'life0 self) -> Pending<'async_trait, ()>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        StoreLayer::close(self)
    }
}

//! Mends values that do not fit: each is written down first, then replaced or deleted.

use std::{fs::File, io::Write, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ltq_core::{Durability, Store, WriteBatch, model::Misfit};
use ltq_store::{FileStore, FileStoreOptions};
use serde_json::json;

use super::ToolError;

/// The file in the folder of what is set aside that holds values, one JSON object a line.
pub(super) const VALUES: &str = "values.jsonl";

/// Sets the values aside and puts right ones in their places.
pub(super) async fn values(dir: &Path, folder: &str, misfits: &[Misfit]) -> Result<(), ToolError> {
    if misfits.is_empty() {
        return Ok(());
    }
    let folder = dir.join(folder);
    write_down(&folder, misfits).map_err(|source| ToolError::Io {
        doing: format!("setting values aside in {}", folder.display()),
        source,
    })?;
    let store = FileStore::open(FileStoreOptions::new(dir)).await?;
    let mut batch = WriteBatch::new();
    for misfit in misfits {
        match &misfit.mended {
            Some(value) => batch.put(misfit.key.clone(), value.clone()),
            None => batch.delete(misfit.key.clone()),
        };
    }
    let mended = store.commit(batch, Durability::Disk).await;
    let closed = store.close().await;
    mended?;
    closed?;
    Ok(())
}

fn write_down(folder: &Path, misfits: &[Misfit]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut file = File::create_new(folder.join(VALUES))?;
    for Misfit { key, value, what, .. } in misfits {
        let line = json!({
            "key": String::from_utf8_lossy(key),
            "what": what,
            "value_base64": value.as_ref().map(|value| STANDARD.encode(value)),
        });
        writeln!(file, "{line}")?;
    }
    file.sync_all()?;
    File::open(folder)?.sync_all()
}

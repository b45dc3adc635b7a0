//! An in-process Vault-compatible server with state.

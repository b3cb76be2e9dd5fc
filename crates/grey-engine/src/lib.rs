//! Engine hosts: the protocol between a node and the processes in which models live, shared
//! memory, supervision, and the engines themselves. Depends on `grey-core` alone; knows nothing of
//! HTTP, registries, tenants or queues.

pub mod engine;

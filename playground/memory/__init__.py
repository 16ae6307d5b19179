"""Memory: the ledger of parts, and what is measured."""

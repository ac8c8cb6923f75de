"""Placing, canceling and reconciling orders, and the journal that keeps them.

`gateway.OrderGateway` is the only place that sends AddOrder and CancelOrder. `reconciler.Reconciler` finds out what
became of an order whose outcome is unknown, by the rules in `reconciliation`. `journal.Journal` writes every order to
SQLite before its first byte leaves; `order_state` says which state may follow which.
"""

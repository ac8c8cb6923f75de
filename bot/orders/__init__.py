"""Placing, canceling and reconciling orders, and the journal that records them.

`gateway.OrderGateway` is the only place that sends AddOrder and CancelOrder. `reconciler.Reconciler` finds the
outcomes of unknown orders, by the rules in `reconciliation`. `journal.Journal` writes every order to SQLite before its
first byte leaves; `order_state` has the states of an order and the allowed transitions.
"""

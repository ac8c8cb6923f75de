"""The parts the trader is put together from: the broker it asks for, its market data, its own orders, its words."""

"""Networks that turn pictures into features, and the one way to name and load them."""

"""Stories of the releases, told on either runtime: the demo shows them, the tests hold them."""

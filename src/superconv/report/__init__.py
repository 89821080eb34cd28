"""How results look: figures that go onto anybody's axes, and pages that need no network."""

"""Whether a picture shows what its caption asks for: garments, colours and drawn scenes."""

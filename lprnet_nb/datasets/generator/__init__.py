"""Parts of the plate generator: glyphs, the plate's layout, and the camera."""

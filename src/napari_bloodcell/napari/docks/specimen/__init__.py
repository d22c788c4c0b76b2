"""The Specimen dock: many images, one answer."""

"""Associated Learning beyond images: texts and a series of numbers."""

"""What is told of red cells beside their number: measurements, the population, shapes, parasites."""

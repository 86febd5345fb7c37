"""What cuts cost, where the best ones are, and how rule `learned` learns to find them."""

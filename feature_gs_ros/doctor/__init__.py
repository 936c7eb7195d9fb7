"""What is wrong with a stream: each finding says what, how sure, in which frames, and what to do."""

"""What is made for students and lecturers: stages, verdicts, grades and exercises. See README.md and LECTURERS.md."""

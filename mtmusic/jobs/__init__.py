"""Where the wings meet: one function a job."""

"""Reading: from files on disk or the hub to arrays of images and labels."""

"""The identity loss: who is in the picture, as a face recogniser sees it (`training.consistency.identity_loss`)."""

"""mmseg's weights for Hugging Face's Mask2Former, the third implementation to compare with (extra `interop`)."""

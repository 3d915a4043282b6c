"""Other engines that generate for a `Seq2Seq`."""

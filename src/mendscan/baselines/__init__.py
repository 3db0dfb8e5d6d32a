"""What simpler methods find: six of them behind one face, fitted on the very scans the model was trained on."""

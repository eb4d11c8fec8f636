"""Why a fine-tuned model said so: gradients over tokens, occlusion, and whether either is faithful."""

"""Google's Gemini models behind the `generateContent` API."""

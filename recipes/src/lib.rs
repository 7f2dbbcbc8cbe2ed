//! uprof-recipes

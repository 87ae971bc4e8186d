//! Groups as their provider describes them.

use super::person::Person;

/// What a member of a group may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupRole {
    /// Reads and, unless only admins may, writes.
    Member,
    /// Also changes the group.
    Admin,
    /// Made the group; also cannot be demoted.
    Superadmin,
}

/// Somebody in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Who, under every name known.
    pub person: Person,
    /// What they may do.
    pub role: GroupRole,
}

/// A group that a number is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The id exactly as the provider gave it; a recipient, too.
    pub id: String,
    /// Its name, as its members see it.
    pub subject: String,
    /// Everybody in it.
    pub members: Vec<GroupMember>,
}

//! Pictures of the trees: text for a terminal, Graphviz for a document.

use crate::plan::{GroupPlan, Role, Topology};
use crate::units::format_size;
use rcp::proto::ids::NodeName;

impl Topology {
    /// One tree per group, with roles and addresses.
    #[must_use]
    pub fn graph(&self) -> String {
        let trees: Vec<String> = self.groups().map(|g| self.group_graph(g)).collect();
        trees.join("\n")
    }

    /// The tree of one group, in lines that end with a newline.
    #[must_use]
    pub fn group_graph(&self, group: &GroupPlan) -> String {
        let volumes: Vec<String> =
            group.volumes.iter().map(|v| format!("{} {}", v.label, format_size(v.size))).collect();
        let volumes = if volumes.is_empty() { "no volumes".to_owned() } else { volumes.join(", ") };
        let mut rows = Vec::new();
        // (node, what stands before it, what stands before its children)
        let mut stack = vec![(&group.primary, String::new(), String::new())];
        while let Some((node, lead, below)) = stack.pop() {
            let children = group.children(node);
            for (i, child) in children.iter().enumerate().rev() {
                let (turn, on) = if i + 1 == children.len() {
                    ("└── ", "    ")
                } else {
                    ("├── ", "│   ")
                };
                stack.push((child, format!("{below}{turn}"), format!("{below}{on}")));
            }
            rows.push((format!("{lead}{node}"), node));
        }
        let width = rows.iter().map(|(text, _)| text.chars().count()).max().unwrap_or(0);
        let mut out = format!("{} ({volumes})\n", group.name);
        for (text, node) in rows {
            let role = group.role(node).map_or("", Role::as_str);
            out.push_str(&format!("{text:width$}  {role:14}  {}\n", self.dialled(node)));
        }
        out
    }

    /// All groups as one Graphviz digraph.
    #[must_use]
    pub fn dot(&self) -> String {
        let mut out = String::from("digraph topology {\n  rankdir=TB;\n  node [shape=box];\n");
        for (i, group) in self.groups().enumerate() {
            let g = &group.name;
            out.push_str(&format!("  subgraph cluster_{i} {{\n    label=\"{g}\";\n"));
            for node in group.members() {
                let style = match group.role(node) {
                    Some(Role::Primary) => ", style=bold",
                    Some(Role::ForwarderOnly) => ", style=dashed",
                    _ => "",
                };
                let role = group.role(node).map_or("", Role::as_str);
                let address = self.dialled(node);
                out.push_str(&format!(
                    "    \"{g}/{node}\" [label=\"{node}\\n{role}\\n{address}\"{style}];\n"
                ));
            }
            for (node, hops) in &group.routes {
                for hop in hops {
                    out.push_str(&format!("    \"{g}/{node}\" -> \"{g}/{hop}\";\n"));
                }
            }
            out.push_str("  }\n");
        }
        out.push_str("}\n");
        out
    }

    fn dialled(&self, node: &NodeName) -> String {
        self.node(node).map_or(String::new(), |n| n.address.to_string())
    }
}
